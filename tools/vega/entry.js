import {extend} from "vega-util";
import {transforms} from "vega-dataflow";
import aggregate from "./node_modules/vega-transforms/src/Aggregate.js";
import collect from "./node_modules/vega-transforms/src/Collect.js";
import compare from "./node_modules/vega-transforms/src/Compare.js";
import expression from "./node_modules/vega-transforms/src/Expression.js";
import extent from "./node_modules/vega-transforms/src/Extent.js";
import facet from "./node_modules/vega-transforms/src/Facet.js";
import field from "./node_modules/vega-transforms/src/Field.js";
import filter from "./node_modules/vega-transforms/src/Filter.js";
import formula from "./node_modules/vega-transforms/src/Formula.js";
import key from "./node_modules/vega-transforms/src/Key.js";
import multiextent from "./node_modules/vega-transforms/src/MultiExtent.js";
import multivalues from "./node_modules/vega-transforms/src/MultiValues.js";
import params from "./node_modules/vega-transforms/src/Params.js";
import prefacet from "./node_modules/vega-transforms/src/PreFacet.js";
import proxy from "./node_modules/vega-transforms/src/Proxy.js";
import relay from "./node_modules/vega-transforms/src/Relay.js";
import sieve from "./node_modules/vega-transforms/src/Sieve.js";
import tupleindex from "./node_modules/vega-transforms/src/TupleIndex.js";
import values from "./node_modules/vega-transforms/src/Values.js";
import {axisticks, datajoin, encode, legendentries, scale, sortitems} from "vega-encode";
import {bound, mark, overlap, render, viewlayout} from "vega-view-transforms";
import {View} from "vega-view";
import {parse} from "vega-parser";
import {expressionInterpreter} from "vega-interpreter";

// The transforms that compiled figures use: their own, those of axes, legends, scales and marks, and of the view.
extend(transforms, {
  aggregate,
  axisticks,
  bound,
  collect,
  compare,
  datajoin,
  encode,
  expression,
  extent,
  facet,
  field,
  filter,
  formula,
  key,
  legendentries,
  mark,
  multiextent,
  multivalues,
  overlap,
  params,
  prefacet,
  proxy,
  relay,
  render,
  scale,
  sieve,
  sortitems,
  tupleindex,
  values,
  viewlayout,
});
export { View, parse, expressionInterpreter };
