// Stands for the packages that Vega imports for colour schemes by name, maps and text files: no figure of a report has them.
// The schemes are read when Vega starts, so they are empty lists; the functions are called by nothing that is in the bundle.
export const schemeAccent = [];
export const schemeCategory10 = [];
export const schemeDark2 = [];
export const schemeObservable10 = [];
export const schemePaired = [];
export const schemePastel1 = [];
export const schemePastel2 = [];
export const schemeSet1 = [];
export const schemeSet2 = [];
export const schemeSet3 = [];
export const dsvFormat = undefined;
export const feature = undefined;
export const geoArea = undefined;
export const geoBounds = undefined;
export const geoCentroid = undefined;
export const mesh = undefined;
