/**
 * What is changed in gVisor so that a machine that is starting or is being saved collects garbage at five times the size
 * of its heap, not at twice: no start needs so much. A second after a start it collects as usual, and what the start
 * needed goes back to the host.
 */

const save = "pkg/sentry/state/state.go";
const controller = "runsc/boot/controller.go";
const restore = "runsc/boot/restore.go";
const boot = "runsc/cmd/boot.go";
const gofer = "runsc/cmd/gofer.go";

const seldom = "debug.SetGCPercent(400)";
const usual = "debug.SetGCPercent(100)";

/** As those of `edits.mjs`. */
export const garbageEdits = [
  {
    file: save,
    from: "\tw.Stop()\n\tdefer w.Start()\n",
    to: `\tw.Stop()\n\tdefer w.Start()\n\tdefer debug.SetGCPercent(${seldom})\n`,
  },
  { file: save, from: '\t"fmt"\n\t"io"\n', to: '\t"fmt"\n\t"io"\n\t"runtime/debug"\n' },
  ...[boot, gofer].map((file) => ({
    file,
    from: "\t// Set traceback level\n",
    to: `\t${seldom}\n\n\t// Set traceback level\n`,
  })),
  {
    // A machine that boots collects as usual when its programs start. One that is restored does so a second later.
    file: controller,
    from: "\t// Tell the root container to start and wait for the result.\n",
    to: `\truntime${usual}\n\n\t// Tell the root container to start and wait for the result.\n`,
  },
  { file: controller, from: '\t"path"\n', to: '\t"path"\n\truntimedebug "runtime/debug"\n' },
  {
    file: restore,
    from: '\t\tlog.Infof("Restore successful")\n',
    to: `\t\tlog.Infof("Restore successful")\n\n\t\ttime2.Sleep(time2.Second)\n\t\truntime${usual}\n\t\truntimedebug.FreeOSMemory()\n`,
  },
  { file: restore, from: '\ttime2 "time"\n', to: '\truntimedebug "runtime/debug"\n\ttime2 "time"\n' },
  {
    file: gofer,
    from: "\tserver.Wait()\n",
    to: `\tgo func() {\n\t\ttime.Sleep(time.Second)\n\t\t${usual}\n\t\tdebug.FreeOSMemory()\n\t}()\n\tserver.Wait()\n`,
  },
  { file: gofer, from: '\t"strings"\n', to: '\t"strings"\n\t"time"\n' },
];
