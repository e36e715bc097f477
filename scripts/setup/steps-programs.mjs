/** The steps that make the programs, on every system: npm packages, and dist/. */
import { buildDist, distCurrent } from "./build.mjs";
import { installNpmPackages, npmPackagesCurrent } from "./npm.mjs";

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {boolean} withDev With the npm packages for development.
 * @param {Pick<import("./graph.mjs").Step, "needs" | "after">} order When the system has what npm may compile with.
 * @returns {import("./graph.mjs").Step[]}
 */
export function programSteps(roots, withDev, order) {
  return [
    {
      name: "npm",
      title: withDev ? "npm packages, with those for development" : "npm packages",
      ...order,
      isDone: () => npmPackagesCurrent(roots, withDev),
      run: (context) => installNpmPackages(roots, withDev, context),
    },
    {
      name: "build",
      title: "dist/, compiled from TypeScript",
      needs: ["npm"],
      isDone: () => distCurrent(roots),
      run: (context) => buildDist(roots, context),
    },
  ];
}
