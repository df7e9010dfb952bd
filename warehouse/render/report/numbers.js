"use strict";
// Numbers as text, with the same digits as the tables of the command line (numbers.py): rounded half to even from the decimal
// number that JSON has, but never to a 0, 1 or 100 % that the number is not.

const SCIENTIFIC_FROM = 1e21;
const SCIENTIFIC_BELOW = 1e-6;

/** A number of a column as text: `column` has its `kind`, and may have `digits`, `signed` and `total`. */
function numberText(value, column) {
  const text = unsignedText(value, column);
  return column.signed && value > 0 ? `+${text}` : text;
}

function unsignedText(value, column) {
  if (typeof value === "number" && !Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  const exact = decimalOf(value);
  const digits = column.digits ?? 0;
  if (column.kind === "ratio") return fixedText({ ...exact, exponent: exact.exponent + 2 }, value, digits, "", 100n);
  const separator = column.kind === "count" ? "," : "";
  const isWhole = column.kind === "count" || column.kind === "index";
  if (isWhole && (typeof value === "bigint" || Number.isInteger(value))) return grouped(roundedText(exact, 0), separator);
  return fixedText(exact, value, isWhole ? 2 : digits, separator, 1n);
}

/** The exact decimal number that is written for a value: mantissa * 10 ** exponent. */
function decimalOf(value) {
  const [, sign, whole, fraction = "", power = "0"] = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(value));
  const mantissa = BigInt(whole + fraction);
  return { mantissa: sign ? -mantissa : mantissa, exponent: Number(power) - fraction.length };
}

function fixedText(exact, value, digits, separator, whole) {
  const size = Math.abs(Number(value)) * (whole === 100n ? 100 : 1);
  if (size >= SCIENTIFIC_FROM) return String(size * Math.sign(Number(value)));
  let text = roundedText(exact, digits);
  if (!misleads(text, exact, whole)) return grouped(text, separator);
  if (size < SCIENTIFIC_BELOW) return scientificText(exact);
  let more = digits;
  while (misleads(text, exact, whole)) {
    more += 1;
    text = roundedText(exact, more);
  }
  return grouped(roundedText(exact, more + 1).replace(/0+$/, ""), separator);
}

/** A decimal number in fixed-point notation, rounded half to even. */
function roundedText({ mantissa, exponent }, digits) {
  const isNegative = mantissa < 0n;
  const scaled = dividedHalfEven(isNegative ? -mantissa : mantissa, exponent + digits);
  const padded = scaled.toString().padStart(digits + 1, "0");
  const text = digits ? `${padded.slice(0, -digits)}.${padded.slice(-digits)}` : padded;
  return isNegative ? `-${text}` : text;
}

/** The whole number nearest to a whole number * 10 ** exponent, the even one of two that are as near. */
function dividedHalfEven(number, exponent) {
  if (exponent >= 0) return number * 10n ** BigInt(exponent);
  const divisor = 10n ** BigInt(-exponent);
  const quotient = number / divisor;
  const doubled = (number % divisor) * 2n;
  const isUp = doubled > divisor || (doubled === divisor && quotient % 2n === 1n);
  return isUp ? quotient + 1n : quotient;
}

function scientificText({ mantissa, exponent }) {
  const isNegative = mantissa < 0n;
  let digits = (isNegative ? -mantissa : mantissa).toString();
  let power = digits.length - 1 + exponent;
  digits = dividedHalfEven(BigInt(digits), 2 - digits.length).toString();
  if (digits.length > 2) power += 1;
  return `${isNegative ? "-" : ""}${digits[0]}.${digits[1]}e${power < 0 ? "-" : "+"}${Math.abs(power)}`;
}

/** Whether a text reads as 0 or as the whole though the number is another one. */
function misleads(text, { mantissa, exponent }, whole) {
  const rounded = decimalOf(text);
  const size = rounded.mantissa < 0n ? -rounded.mantissa : rounded.mantissa;
  const unit = 10n ** BigInt(-rounded.exponent);
  if (size !== 0n && size !== whole * unit) return false;
  const low = Math.min(exponent, rounded.exponent);
  return mantissa * 10n ** BigInt(exponent - low) !== rounded.mantissa * 10n ** BigInt(rounded.exponent - low);
}

/** A number with a separator between thousands. */
function grouped(text, separator) {
  if (!separator) return text;
  const [whole, fraction] = text.split(".");
  const parts = whole.replace(/\B(?=(\d{3})+$)/g, separator);
  return fraction === undefined ? parts : `${parts}.${fraction}`;
}
