/**
 * The help text of the command `firkin`: one table of commands, from which every help is printed. This file is plain
 * JavaScript because `npx firkin help` prints before anything is installed or compiled.
 */

/**
 * @typedef {object} Command
 * @property {string} name
 * @property {string} usage What follows `npx firkin`.
 * @property {string} does One line.
 * @property {string} more Further sentences for the command's own help.
 * @property {boolean} [settings] Whether the command takes the daemon's settings.
 */

/** @type {readonly Command[]} */
export const commands = [
  {
    name: "serve",
    usage: "serve [SETTING…]",
    does: "set up what is missing, then serve; `npm start` does the same",
    more: "The first start also makes the template base. Ctrl-C stops the daemon; running sandboxes go on.",
    settings: true,
  },
  {
    name: "env",
    usage: "env [SETTING…]",
    does: 'print the lines that point an E2B SDK at the daemon: eval "$(npx firkin env)"',
    more: "",
    settings: true,
  },
  {
    name: "tls",
    usage: "tls [SETTING…]",
    does: "make certificates for --domain, and say how to trust and resolve its names",
    more: "",
    settings: true,
  },
  {
    name: "build",
    usage: "build [FOLDER|DOCKERFILE] -t NAME",
    does: "build a template from a Dockerfile, by the running daemon and without Docker",
    more:
      "--build-arg NAME=VALUE sets an ARG, --cpu and --memory (MiB) the shape, --no-cache runs every step.\n" +
      "Ctrl-C cancels the build. What docs/templates.md lists is an error or a warning.",
  },
  {
    name: "template",
    usage: "template list|build|delete|add",
    does: "list templates, build or delete one, or add a ready-made one: python, node, code-interpreter",
    more: "`template build` is `build`. `template delete NAME…`, `template add code-interpreter [--lean]`.",
  },
  { name: "builds", usage: "builds prune", does: "remove the cache of build steps", more: "" },
  {
    name: "doctor",
    usage: "doctor",
    does: "check every requirement, and say what to do about each one that is not met",
    more: "The exit status is 1 when a requirement is not met.",
  },
  {
    name: "setup",
    usage: "setup [--upgrade]",
    does: "set up what is missing, without serving",
    more: "--upgrade takes today's kernel and Debian packages for new guests. Snapshots keep theirs.",
  },
  { name: "version", usage: "version", does: "print the version", more: "" },
  { name: "help", usage: "help [COMMAND]", does: "print this text, or that of one command", more: "" },
];

const rootFlags =
  "Every command takes --state-dir DIR and --cache-dir DIR (or FIRKIN_STATE_DIR, FIRKIN_CACHE_DIR), the folders\n" +
  "for state and for what can be built again.\n";

const usageWidth = Math.max(...commands.map(({ usage }) => usage.length));

/** The help for all commands. */
export const help = `firkin: the E2B API on this machine, every sandbox a microVM restored from a snapshot

${commands.map(({ usage, does }) => `  npx firkin ${usage.padEnd(usageWidth)}  ${does}\n`).join("")}
${rootFlags}\`npx firkin COMMAND --help\` says more; \`npx firkin serve --help\` lists the settings.
`;

/**
 * The help for one command.
 * @param {Command} command
 * @param {string} settings The daemon's settings, a line each; only a command that takes settings shows them.
 */
export function commandHelp({ usage, does, more, settings: takesSettings }, settings) {
  const sentences = more ? `${more}\n\n` : "";
  const list = takesSettings ? `\nSettings, as flags or environment variables:\n${settings}\n` : "";
  return `usage: npx firkin ${usage}\n\n  ${does}\n\n${sentences}${rootFlags}${list}`;
}

/** @param {string} name */
export function unknownCommand(name) {
  return `firkin: there is no command ${JSON.stringify(name)}\n\n${help}`;
}

/**
 * Whether arguments ask for help.
 * @param {readonly string[]} args
 */
export function asksForHelp(args) {
  return args.includes("--help") || args.includes("-h");
}
