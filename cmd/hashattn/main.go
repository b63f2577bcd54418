// Command hashattn trains learned-hash sparse attention for language models and
// measures what it costs in quality and gains in time.
//
// Each command is one file: its flags, and a run function that writes results
// to standard output and progress to standard error. main maps errors to exit
// codes, once.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/configs"
	"github.com/hashattn/hashattn/eval/result"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2 // flags, arguments, the experiment file
	exitInput       = 3 // an input file is damaged or does not fit
	exitInterrupted = 130
)

const exitHelp = `
Exit codes: 0 done, 1 failure, 2 wrong usage or configuration, 3 an input file
is damaged or does not fit, 130 interrupted (the next run resumes).`

func main() {
	os.Exit(run(interruptible(), os.Args[1:], os.Stdout, os.Stderr))
}

// interruptible gives a context that the first interrupt cancels: the unit of
// work at hand is finished and kept. A second ends the program at once, which
// loses that unit and no more, for files get their names once they are whole.
func interruptible() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		fmt.Fprintln(os.Stderr, "hashattn: stopping after the work at hand; interrupt again to stop at once")
		<-signals
		os.Exit(exitInterrupted)
	}()
	return ctx
}

// run runs one command line and gives its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	out := &output{w: stdout}
	a := newApp(out, stderr)
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil && out.err != nil {
		err = fmt.Errorf("standard output: %w", out.err)
	}
	code := exitCode(ctx, err, a.began)
	switch {
	case code == exitInterrupted:
		fmt.Fprintln(stderr, "hashattn: interrupted; the same command resumes")
	case err != nil:
		fmt.Fprintln(stderr, "hashattn:", err)
		if code == exitUsage && !a.began {
			fmt.Fprintln(stderr, "Try 'hashattn --help', or --help behind a command.")
		}
	}
	return code
}

// output is standard output. It keeps the first error, so that results which
// could not be printed, on a full disk for example, are not taken for printed.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// usageError is a wrong use of a command.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// inputError is a file that a command cannot use.
type inputError struct{ error }

func (e inputError) Unwrap() error { return e.error }

// asInput marks an error of reading a user's file.
func asInput(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return inputError{err}
}

// exitCode maps an error to the program's exit code. began says whether a
// command's run function was reached: what fails before is wrong usage.
func exitCode(ctx context.Context, err error, began bool) int {
	var usage usageError
	var key *configs.KeyError
	var input inputError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitInterrupted
	case !began || errors.As(err, &usage) || errors.As(err, &key):
		return exitUsage
	case errors.As(err, &input):
		return exitInput
	}
	return exitFailure
}

// app is what the commands share.
type app struct {
	stdout, stderr io.Writer
	progress       *progress
	began          bool

	// global flags
	json  bool
	quiet bool
	file  string   // experiment
	sets  []string // key=value
}

func newApp(stdout, stderr io.Writer) *app {
	return &app{stdout: stdout, stderr: stderr}
}

// root is the command tree.
func (a *app) root() *cobra.Command {
	cobra.EnableCommandSorting = false // the help follows the pipeline
	root := &cobra.Command{
		Use:   "hashattn",
		Short: "Train and measure learned-hash sparse attention",
		Long: `hashattn captures queries and keys from a language model, trains mappings of
them to short codes (HashAttention, arXiv 2412.14468), and measures what
attention to the tokens so found costs in quality and gains in time.
` + exitHelp,
		Example: `  hashattn run quickstart                 # everything, on a small real model
  hashattn generate --prompt "The sea" --mapping runs/quickstart/mappings/grouped.safetensors --sparsity 1/32
  hashattn report runs/quickstart`,
		Version:           result.Versions()["hashattn"],
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			a.began = true
			a.progress = newProgress(a.stderr, a.quiet)
			return nil
		},
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print the result as JSON")
	root.PersistentFlags().BoolVarP(&a.quiet, "quiet", "q", false, "print no progress")
	root.AddGroup(
		&cobra.Group{ID: "pipeline", Title: "The pipeline, in its order:"},
		&cobra.Group{ID: "use", Title: "Use and look:"},
	)
	for _, c := range []*cobra.Command{a.runCommand(), a.pullCommand(), a.captureCommand(), a.trainCommand(), a.exportCommand(), a.evalCommand(), a.benchCommand(), a.reportCommand()} {
		c.GroupID = "pipeline"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{a.generateCommand(), a.inspectCommand(), a.doctorCommand(), a.versionCommand()} {
		c.GroupID = "use"
		root.AddCommand(c)
	}
	return root
}
