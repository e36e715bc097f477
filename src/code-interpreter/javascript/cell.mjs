/**
 * A JavaScript or TypeScript cell as a script: types are removed, ES imports become `require`, and a cell with `await`
 * outside of functions becomes an async function whose variables are the script's.
 */
import * as module from "node:module";
import { parse } from "acorn";

const options = {
  ecmaVersion: "latest",
  sourceType: "script",
  allowAwaitOutsideFunction: true,
  allowImportExportEverywhere: true,
  allowHashBang: true,
};

/**
 * The script for a cell. Its lines are those of the cell.
 * @param {string} code
 * @returns {{ script: string, isAsync: boolean }}
 * @throws SyntaxError
 */
export function toScript(code) {
  const { source, tree } = parseCell(code);
  const edits = [];
  for (const node of tree.body) editModuleItem(node, source, edits);
  const imported = applyEdits(source, edits);
  if (!hasAwait(tree)) return { script: imported, isAsync: false };
  return { script: asyncScript(imported, parse(imported, options)), isAsync: true };
}

/** Parses a cell as JavaScript; if it is none, as TypeScript. */
function parseCell(code) {
  try {
    return { source: code, tree: parse(code, options) };
  } catch (error) {
    const source = withoutTypes(code);
    // What was no TypeScript either is an error of the code as it was written.
    if (source === undefined) throw new SyntaxError(error.message);
    return { source, tree: parse(source, options) };
  }
}

function withoutTypes(code) {
  // The guest's Node.js has it; that of a host on which the tests run may not.
  const { stripTypeScriptTypes } = module;
  if (stripTypeScriptTypes === undefined) return undefined;
  for (const mode of ["strip", "transform"]) {
    try {
      return stripTypeScriptTypes(code, { mode });
    } catch {
      // Enumerations and namespaces need the other mode. What neither takes is no TypeScript.
    }
  }
  return undefined;
}

/** Rewrites an import; an export has no meaning in a cell, so that only what it declares stays. */
function editModuleItem(node, source, edits) {
  switch (node.type) {
    case "ImportDeclaration":
      edits.push([node.start, node.end, requireOf(node) + lineBreaks(source.slice(node.start, node.end))]);
      break;
    case "ExportNamedDeclaration":
      if (node.declaration) edits.push([node.start, node.declaration.start, ""]);
      else throw new SyntaxError("a cell has nothing to export to");
      break;
    case "ExportDefaultDeclaration":
    case "ExportAllDeclaration":
      throw new SyntaxError("a cell has nothing to export to");
  }
}

const lineBreaks = (text) => text.replace(/[^\n]/g, "");

/** `import a, { b as c } from "m"` as variables that are taken from `require("m")`. */
function requireOf({ specifiers, source: { raw } }) {
  if (specifiers.length === 0) return `void require(${raw});`;
  const names = specifiers.map((specifier) => {
    const { name } = specifier.local;
    const module = `require(${raw})`;
    if (specifier.type === "ImportNamespaceSpecifier") return `${name} = ${module}`;
    if (specifier.type === "ImportDefaultSpecifier") return `${name} = ${defaultOf(module)}`;
    const { imported } = specifier;
    const key = imported.type === "Literal" ? imported.raw : JSON.stringify(imported.name);
    return `${name} = ${key === '"default"' ? defaultOf(module) : `${module}[${key}]`}`;
  });
  return `var ${names.join(", ")};`;
}

/** What a default import is: of an ES module its default export, of another one all that it exports. */
const defaultOf = (module) => `((m) => m?.[Symbol.toStringTag] === "Module" ? m.default : m)(${module})`;

/** Whether a tree has `await` outside of functions. */
function hasAwait(node) {
  if (node.type === "AwaitExpression" || (node.type === "ForOfStatement" && node.await)) return true;
  return children(node).some((child) => !isFunction(child) && hasAwait(child));
}

const isFunction = ({ type }) =>
  type === "FunctionDeclaration" ||
  type === "FunctionExpression" ||
  type === "ArrowFunctionExpression" ||
  type === "StaticBlock" ||
  type === "PropertyDefinition";

function children(node) {
  return Object.values(node)
    .flat()
    .filter((value) => typeof value?.type === "string");
}

function asyncScript(source, tree) {
  const names = new Set();
  const functions = [];
  const edits = [];
  for (const node of tree.body) hoist(node, true, { source, names, functions, edits });
  const last = tree.body.at(-1);
  if (last?.type === "ExpressionStatement") {
    edits.push([last.start, last.start, "return { value: ("]);
    edits.push([last.expression.end, last.end, ") };"]);
  }
  const body = applyEdits(source, edits);
  const declared = names.size > 0 ? `let ${[...names].join(", ")}; ` : "";
  // A declared function is there from the beginning of its cell.
  const early = functions.map((name) => `globalThis.${name} = ${name}; `).join("");
  return `${declared}(async () => { ${early}${body}\n})()`;
}

/** Makes declarations assignments to variables of the script. */
function hoist(node, isTop, work) {
  const { source, names, functions, edits } = work;
  if (node.type === "VariableDeclaration" && (isTop || node.kind === "var")) {
    hoistVariables(node, work);
  } else if (node.type === "ClassDeclaration" && isTop) {
    names.add(node.id.name);
    edits.push([node.start, node.start, `${node.id.name} = `]);
    edits.push([node.end, node.end, ";"]);
  } else if (node.type === "FunctionDeclaration" && isTop) {
    functions.push(node.id.name);
  } else if (node.type === "ForStatement" || node.type === "ForInStatement" || node.type === "ForOfStatement") {
    const head = node.type === "ForStatement" ? node.init : node.left;
    if (head?.type === "VariableDeclaration" && head.kind === "var") {
      for (const { id } of head.declarations) collectNames(id, names);
      edits.push([head.start, head.declarations[0].start, ""]);
    }
    hoist(node.body, false, work);
  } else if (!isFunction(node)) {
    for (const child of children(node))
      if (isStatement(child)) hoist(child, false, { source, names, functions, edits });
  }
}

const isStatement = ({ type }) => /Statement$|Declaration$|^SwitchCase$|^CatchClause$/.test(type);

function hoistVariables(node, { source, names, edits }) {
  for (const { id } of node.declarations) collectNames(id, names);
  if (node.declarations.every(({ init }) => !init)) {
    edits.push([node.start, node.end, `;${lineBreaks(source.slice(node.start, node.end))}`]);
    return;
  }
  edits.push([node.start, node.declarations[0].start, "void ("]);
  for (const { id, init, start, end } of node.declarations) {
    if (!init) edits.push([start, end, `${id.name} = undefined`]);
  }
  const last = node.declarations.at(-1);
  edits.push([last.end, node.end, ");"]);
}

function collectNames(pattern, names) {
  switch (pattern?.type) {
    case "Identifier":
      names.add(pattern.name);
      break;
    case "ObjectPattern":
      for (const property of pattern.properties) collectNames(property.value ?? property.argument, names);
      break;
    case "ArrayPattern":
      for (const element of pattern.elements) collectNames(element, names);
      break;
    case "AssignmentPattern":
      collectNames(pattern.left, names);
      break;
    case "RestElement":
      collectNames(pattern.argument, names);
      break;
  }
}

/** The text with pieces replaced. Edits do not overlap; several at one place are in order. */
function applyEdits(source, edits) {
  let result = "";
  let at = 0;
  for (const [start, end, text] of [...edits].sort((one, other) => one[0] - other[0])) {
    result += source.slice(at, start) + text;
    at = end;
  }
  return result + source.slice(at);
}
