/** What `/console/vendor/xterm.mjs` is: the daemon serves it from the npm package. */
export * from "@xterm/xterm";
