/** A model's versions: their aliases, networks, skill on the test part, and runs. */

import { byId, element } from "./dom.js";
import { percent, pValue, ratio, time } from "./format.js";
import { table } from "./table.js";

const RUN_ID_CHARS = 8;

/** Show a model's versions, newest first; runs are links where MLflow's address is known. */
export function showVersions({ name, aliases, versions }, mlflowUrl) {
  const rows = Object.entries(versions).map(([version, manifest]) => ({ version, ...manifest }));
  const aliasesOf = (version) => Object.keys(aliases).filter((alias) => String(aliases[alias]) === version);
  const columns = [
    { title: "Version", cell: ({ version }) => version, isText: true },
    { title: "Aliases", cell: ({ version }) => badges(aliasesOf(version)), isText: true },
    { title: "Network", cell: ({ cell, topology }) => `${cell}, ${topology.replaceAll("_", "-")}`, isText: true },
    { title: "Trained until", cell: ({ trained_until: until }) => time(until), isText: true },
    { title: "Relative MAE", cell: ({ skill }) => ratio(skill.relative_mae) },
    { title: "p-value", cell: ({ skill }) => pValue(skill.p_value) },
    { title: "Skill", cell: ({ skill }) => (skill.is_shown ? "demonstrated" : "none demonstrated"), isText: true },
    { title: "80 % coverage", cell: ({ skill }) => percent(skill.coverage["80"]) },
    { title: "Run", cell: ({ run_id: run }) => runLink(run, mlflowUrl), isText: true },
  ];
  byId("versions-table").replaceChildren(table(`Versions of ${name}`, columns, rows.reverse()));
}

function badges(names) {
  return element("span", {}, ...names.sort().flatMap((name) => [element("span", { class: "badge" }, name), " "]));
}

function runLink(run, mlflowUrl) {
  const id = element("code", { title: run }, run.slice(0, RUN_ID_CHARS));
  if (!mlflowUrl) return id;
  const href = `${mlflowUrl}/#/runs/${encodeURIComponent(run)}`;
  return element("a", { href, rel: "noopener noreferrer", "aria-label": `MLflow run ${run}` }, id);
}
