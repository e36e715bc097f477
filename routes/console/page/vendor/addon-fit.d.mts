/** What `/console/vendor/addon-fit.mjs` is: the daemon serves it from the npm package. */
export * from "@xterm/addon-fit";
