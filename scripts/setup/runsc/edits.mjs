/**
 * What is changed in gVisor before it is compiled: how memory is restored (`restore-edits.mjs`) and saved
 * (`checkpoint-edits.mjs`, `state-edits.mjs`), how long a start takes (`start-edits.mjs`, `caps-edits.mjs`), when
 * garbage is collected (`garbage-edits.mjs`) and what an idle machine costs (`idle-edits.mjs`); and extended attributes
 * of users (`user.*`) are read, written, listed and removed on the disk of a machine. gVisor itself only reads them.
 * The names that the kernel acts on stay refused by gVisor's own check (`checkXattrPermissions`), which comes first.
 */

import { capsEdits } from "./caps-edits.mjs";
import { checkpointEdits } from "./checkpoint-edits.mjs";
import { filterEdits } from "./filter-edits.mjs";
import { garbageEdits } from "./garbage-edits.mjs";
import { idleEdits } from "./idle-edits.mjs";
import { restoreEdits } from "./restore-edits.mjs";
import { startEdits } from "./start-edits.mjs";
import { stateEdits } from "./state-edits.mjs";

const impl = "pkg/sentry/fsimpl/gofer/inode_impl.go";
const filter = "runsc/boot/filter/config/config_main.go";
const unsupported = "\t\t// Consistent with runsc/fsgofer.\n\t\treturn linuxerr.EOPNOTSUPP\n";

/**
 * Each `from` stands exactly once in its file.
 * @type {readonly { readonly file: string, readonly from: string, readonly to: string }[]}
 */
export const edits = [
  ...restoreEdits,
  ...checkpointEdits,
  ...idleEdits,
  ...startEdits,
  ...filterEdits,
  ...capsEdits,
  ...stateEdits,
  ...garbageEdits,
  {
    file: impl,
    from: "\t\t// Consistent with runsc/fsgofer.\n\t\treturn nil, linuxerr.EOPNOTSUPP\n",
    to: "\t\treturn it.listUserXattrs(d.inode.fileType())\n",
  },
  {
    file: impl,
    from: `\t\treturn it.controlFD.SetXattr(ctx, opts.Name, opts.Value, opts.Flags)\n\tcase *directfsInode:\n${unsupported}`,
    to:
      "\t\treturn it.controlFD.SetXattr(ctx, opts.Name, opts.Value, opts.Flags)\n\tcase *directfsInode:\n" +
      "\t\tif !hasXattrs(d.inode.fileType()) {\n\t\t\treturn linuxerr.EOPNOTSUPP\n\t\t}\n" +
      "\t\treturn unix.Fsetxattr(it.controlFD, opts.Name, []byte(opts.Value), int(opts.Flags))\n",
  },
  {
    file: impl,
    from: `\t\treturn it.controlFD.RemoveXattr(ctx, name)\n\tcase *directfsInode:\n${unsupported}`,
    to:
      "\t\treturn it.controlFD.RemoveXattr(ctx, name)\n\tcase *directfsInode:\n" +
      "\t\tif !hasXattrs(i.fileType()) {\n\t\t\treturn linuxerr.EOPNOTSUPP\n\t\t}\n" +
      "\t\treturn unix.Fremovexattr(it.controlFD, name)\n",
  },
  {
    file: impl,
    from: "// Precondition: !d.isSynthetic().\nfunc (d *dentry) listXattrImpl(",
    to: `// hasXattrs is true of what has a control FD that is no O_PATH one.
func hasXattrs(fileType uint32) bool {
	return fileType == linux.S_IFREG || fileType == linux.S_IFDIR
}

func (i *directfsInode) listUserXattrs(fileType uint32) ([]string, error) {
	if !hasXattrs(fileType) {
		return nil, nil
	}
	size, err := unix.Flistxattr(i.controlFD, nil)
	if err != nil || size == 0 {
		return nil, err
	}
	buf := make([]byte, size)
	if size, err = unix.Flistxattr(i.controlFD, buf); err != nil {
		return nil, err
	}
	var names []string
	for _, name := range strings.Split(string(buf[:size]), "\\x00") {
		if strings.HasPrefix(name, linux.XATTR_USER_PREFIX) {
			names = append(names, name)
		}
	}
	return names, nil
}

// Precondition: !d.isSynthetic().
func (d *dentry) listXattrImpl(`,
  },
  { file: impl, from: 'import (\n\t"fmt"\n', to: 'import (\n\t"fmt"\n\t"strings"\n' },
  {
    file: filter,
    from: "\t\tunix.SYS_FGETXATTR: seccomp.PerArg{\n",
    to:
      "\t\tunix.SYS_FSETXATTR:    seccomp.PerArg{seccomp.NonNegativeFD{}},\n" +
      "\t\tunix.SYS_FLISTXATTR:   seccomp.PerArg{seccomp.NonNegativeFD{}},\n" +
      "\t\tunix.SYS_FREMOVEXATTR: seccomp.PerArg{seccomp.NonNegativeFD{}},\n" +
      "\t\tunix.SYS_FGETXATTR: seccomp.PerArg{\n",
  },
];
