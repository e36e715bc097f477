// Command filters writes the filters of system calls that a machine of gVisor installs when it starts into the sources of
// gVisor, whose folder is its argument. gVisor's modules come without them, and a start that has to put them together
// takes some 12 ms longer.
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform/systrap"
	"gvisor.dev/gvisor/runsc/boot/filter/config"
	gofer "gvisor.dev/gvisor/runsc/fsgofer/filter"
)

func main() {
	root := os.Args[1]
	write(root, "runsc/boot/filter", addPrograms())
	write(root, "runsc/fsgofer/filter", goferFilter())
	write(root, "pkg/sentry/platform/systrap", stubFilter())
}

// addPrograms returns a function that registers the filters of gVisor's kernel.
func addPrograms() string {
	programs, err := config.PrecompiledPrograms()
	check(err)
	var text strings.Builder
	text.WriteString("func addPrograms(programs map[string]precompiledseccomp.Program) {\n")
	for _, program := range programs {
		// Machines run on systrap, and have no graphics card or the like.
		if hasAll(program.Name, `Platform="systrap"`, "NVProxy=false", "TPUProxy=false") {
			text.WriteString(program.Registration("\t", "precompiledseccomp", "programs"))
		}
	}
	text.WriteString("}\n")
	return text.String()
}

// goferFilter returns a function that sets the filter of the file server, with the options that it has in a machine.
func goferFilter() string {
	options := gofer.Options{DirectFS: true}
	filter := func(values precompiledseccomp.Values) *seccomp.Program { return gofer.Filter(options, values) }
	expression := compile("gofer", gofer.FilterValues(), filter)
	return fmt.Sprintf("func init() {\n\tcompiledFor = &%#v\n\tcompiled = %s\n}\n", options, expression)
}

// stubFilter returns a function that sets the filter of the processes in which a guest's programs run.
func stubFilter() string {
	expression := compile("stub", systrap.StubValues(), systrap.StubFilter)
	return fmt.Sprintf("func init() {\n\tcompiledStubFilter = %s\n}\n", expression)
}

// compile returns an expression for the program that a function makes of values of which the names alone are known.
func compile(name string, values precompiledseccomp.Values, of func(precompiledseccomp.Values) *seccomp.Program) string {
	program, err := precompiledseccomp.Precompile(name, slices.Collect(maps.Keys(values)), of)
	check(err)
	return program.Expr("\t", "precompiledseccomp")
}

// write makes a file of the package in that folder.
func write(root, folder, text string) {
	name := filepath.Base(folder)
	header := "package " + name + "\n\nimport \"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp\"\n\n"
	// A type of the package itself has no qualifier there.
	text = strings.ReplaceAll(text, name+".Options", "Options")
	check(os.WriteFile(filepath.Join(root, folder, "filter_programs.go"), []byte(header+text), 0o644))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func hasAll(name string, parts ...string) bool {
	for _, part := range parts {
		if !strings.Contains(name, part) {
			return false
		}
	}
	return true
}
