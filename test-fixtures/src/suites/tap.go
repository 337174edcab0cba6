// Package tap takes the place of github.com/mndrix/tap-go, of which Debian has no package: as much of it as the validation
// of runtime-tools calls.
package tap

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// T tells the results of one program's tests on standard output.
type T struct {
	Writer io.Writer
	told   int
	// Behind each description.
	directive string
}

func New() *T {
	return &T{Writer: os.Stdout}
}

func (t *T) print(format string, values ...interface{}) {
	fmt.Fprintf(t.Writer, format, values...)
}

// Header tells how many tests there will be; AutoPlan does when it is not known before.
func (t *T) Header(count int) {
	t.print("TAP version 13\n")
	if count > 0 {
		t.print("1..%d\n", count)
	}
}

func (t *T) AutoPlan() {
	t.print("1..%d\n", t.told)
}

func (t *T) tell(result, description string) {
	t.told++
	t.print("%s %d - %s%s\n", result, t.told, description, t.directive)
}

func (t *T) Ok(passed bool, description string) {
	if passed {
		t.tell("ok", description)
	} else {
		t.tell("not ok", description)
	}
}

func (t *T) Pass(description string) {
	t.Ok(true, description)
}

func (t *T) Fail(description string) {
	t.Ok(false, description)
}

func (t *T) Skip(count int, description string) {
	for range count {
		t.tell("ok", "# SKIP "+description)
	}
}

// Todo is for the tests that may fail.
func (t *T) Todo() *T {
	return &T{Writer: t.Writer, told: t.told, directive: " # TODO"}
}

func (t *T) Diagnostic(message string) {
	t.print("# %s\n", strings.ReplaceAll(message, "\n", "\n# "))
}

func (t *T) Diagnosticf(format string, values ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, values...))
}

// YAML tells details of the test before; JSON is YAML too.
func (t *T) YAML(details interface{}) error {
	text, err := json.MarshalIndent(details, "  ", "  ")
	if err == nil {
		t.print("  ---\n  %s\n  ...\n", text)
	}
	return err
}
