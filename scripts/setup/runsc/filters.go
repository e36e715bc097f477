// Command filters writes filter_programs.go into the folder of its argument: the filter of system calls that a
// machine's gVisor installs when it starts. gVisor's modules come without it, and a start that has to put it together
// takes 9 ms longer.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	_ "gvisor.dev/gvisor/pkg/sentry/platform/systrap"
	"gvisor.dev/gvisor/runsc/boot/filter/config"
)

func main() {
	programs, err := config.PrecompiledPrograms()
	if err != nil {
		fail(err)
	}
	var file strings.Builder
	file.WriteString("package filter\n\nimport \"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp\"\n\n")
	file.WriteString("func addPrograms(programs map[string]precompiledseccomp.Program) {\n")
	for _, program := range programs {
		// Machines run on systrap, and have no graphics card or the like.
		if hasAll(program.Name, `Platform="systrap"`, "NVProxy=false", "TPUProxy=false") {
			file.WriteString(program.Registration("\t", "precompiledseccomp", "programs"))
		}
	}
	file.WriteString("}\n")
	if err := os.WriteFile(filepath.Join(os.Args[1], "filter_programs.go"), []byte(file.String()), 0o644); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func hasAll(name string, parts ...string) bool {
	for _, part := range parts {
		if !strings.Contains(name, part) {
			return false
		}
	}
	return true
}
