package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// stubbornEnv makes the test binary a program for TestSecondInterrupt.
const stubbornEnv = "HASHATTN_TEST_STUBBORN"

func TestMain(m *testing.M) {
	if os.Getenv(stubbornEnv) != "" {
		stubborn()
	}
	testscript.Main(m, map[string]func(){
		"hashattn": main,
	})
}

// TestScript runs the sessions of testdata/*.txtar. They know the checkpoints
// of package model as $TINY/qwen3 and the like, and the files in testdata of
// other packages below $MODEL.
func TestScript(t *testing.T) {
	models, err := filepath.Abs("../../model")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("MODEL", models)
			e.Setenv("TINY", filepath.Join(models, "testdata", "tiny"))
			e.Setenv("HASHATTN_CACHE", filepath.Join(e.WorkDir, "cache"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":     exitsWith,
			"head":     head,
			"waitfile": waitFile,
			"samerows": sameRows,
		},
	})
}

// exitsWith runs a command and wants its exit code: code 2 hashattn run x.yaml
func exitsWith(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// head writes the first n bytes of a file to another: head N from to
func head(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: head N from to")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	raw, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	if n > len(raw) {
		ts.Fatalf("%s has %d bytes", args[1], len(raw))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), raw[:n], 0o644))
}

// waitFile waits until a file is there.
func waitFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitfile path")
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
	}
	ts.Fatalf("%s does not come", args[0])
}

// sameRows wants the rows of two result files to be equal.
func sameRows(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: samerows a.json b.json")
	}
	var rows [2]struct{ Rows []any }
	for i, name := range args {
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(name)), &rows[i]))
		if len(rows[i].Rows) == 0 {
			ts.Fatalf("%s has no rows", name)
		}
	}
	if reflect.DeepEqual(rows[0], rows[1]) == neg {
		ts.Fatalf("rows of %s and %s: equal is %v", args[0], args[1], !neg)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// What cannot be printed is no success.
func TestStandardOutputIsFull(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"version", "--json"}, {"run", "--schema"}, {"completion", "bash"}, {"pull", "--list"}} {
		var stderr bytes.Buffer
		if code := run(t.Context(), args, full{}, &stderr); code != exitFailure || !strings.Contains(stderr.String(), "no space left") {
			t.Errorf("%v: exit code %d, %s", args, code, &stderr)
		}
	}
}

func TestExitCodes(t *testing.T) {
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		ctx   context.Context
		err   error
		began bool
		want  int
	}{
		{context.Background(), nil, true, exitOK},
		{context.Background(), errors.New("disk full"), true, exitFailure},
		{context.Background(), errors.New("unknown flag"), false, exitUsage},
		{context.Background(), usagef("bad"), true, exitUsage},
		{context.Background(), asInput(errors.New("truncated")), true, exitInput},
		{cancelled, context.Canceled, true, exitInterrupted},
		{context.Background(), context.Canceled, true, exitFailure},
	} {
		if got := exitCode(c.ctx, c.err, c.began); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
	}
}
