/** What the set-up does for the programs on every system. */
import { buildDist, distCurrent } from "./build.mjs";
import { installNpmPackages, npmPackagesCurrent } from "./npm.mjs";

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {boolean} withDev With the npm packages for development.
 * @param {string} compilers The step that brings the system's own packages.
 * @returns {import("./graph.mjs").Step[]}
 */
export function programSteps(roots, withDev, compilers) {
  return [
    {
      name: "npm",
      title: withDev ? "npm packages, with those for development" : "npm packages",
      needs: [compilers],
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
