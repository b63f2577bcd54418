package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/configs"
	"github.com/hashattn/hashattn/eval/pipeline"
	"github.com/hashattn/hashattn/eval/report"
	"github.com/hashattn/hashattn/model/atomicfile"
)

type runOptions struct {
	schema, print bool
}

func (a *app) runCommand() *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run FILE",
		Short: "Run an experiment: pull, capture, train, eval, bench, report",
		Long: `run does all stages of an experiment file in the folder OUTPUT.DIR/NAME and ends
with a short table, report.md and report.html. A stage whose configuration and
inputs have not changed is skipped; one that was stopped, even by kill -9, goes
on where it was. Keys may also be set by HASHATTN_* variables
(HASHATTN_TRAIN_STEPS=400) and by --set, which wins. FILE is a YAML file or one
that ships with the program:

` + shippedExperiments() + exitHelp,
		Example: `  hashattn run quickstart
  hashattn run my.yaml --set train.steps=400 --set sparsities=1/16,1/32
  hashattn run smollm2-135m --print > my.yaml  # the whole experiment, each key explained
  hashattn run --schema > hashattn.schema.json`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, files []string) error {
			if o.schema {
				return a.printSchema()
			}
			if len(files) == 0 {
				return usagef("name an experiment file; %s ship with the program", strings.Join(configs.Shipped(), ", "))
			}
			a.file = files[0]
			e, err := a.experiment(c)
			if err != nil {
				return err
			}
			if o.print {
				return a.printExperiment(e)
			}
			s := a.session(e)
			defer s.Close()
			return s.run(c.Context())
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return configs.Shipped(), cobra.ShellCompDirectiveDefault
		},
	}
	a.bindSet(c)
	c.Flags().BoolVar(&o.schema, "schema", false, "print the JSON schema of experiment files")
	c.Flags().BoolVar(&o.print, "print", false, "print the merged experiment, each key explained, and do nothing")
	return c
}

// shippedExperiments is a line for each.
func shippedExperiments() string {
	var b strings.Builder
	for _, name := range configs.Shipped() {
		fmt.Fprintf(&b, "  %-22s %s\n", strings.TrimSuffix(name, ".yaml"), configs.Summary(name))
	}
	return b.String()
}

func (a *app) printSchema() error {
	raw, err := configs.Schema()
	if err != nil {
		return err
	}
	a.printf("%s\n", raw)
	return nil
}

func (a *app) printExperiment(e *configs.Experiment) error {
	if a.json {
		return a.printJSON(e)
	}
	raw, err := e.YAML()
	if err != nil {
		return err
	}
	a.printf("%s", raw)
	return nil
}

// run runs the experiment's stages and shows what came out.
func (s *session) run(ctx context.Context) error {
	if err := s.distinct(); err != nil {
		return err
	}
	stages, err := s.stages()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	text, err := s.YAML()
	if err != nil {
		return err
	}
	if err := atomicfile.Replace(s.path("experiment.yaml"), text); err != nil {
		return err
	}
	names := make([]string, len(stages))
	for i, st := range stages {
		names[i] = st.Name
	}
	err = pipeline.Run(ctx, s.dir, stages, func(e pipeline.Event) { s.tell(e, names) })
	if err != nil {
		return err
	}
	return s.showRun()
}

// tell prints a line about a stage, with what is left.
func (s *session) tell(e pipeline.Event, names []string) {
	at := fmt.Sprintf("[%d/%d] %s", e.Index+1, e.Stages, e.Stage)
	switch e.Kind {
	case pipeline.Waiting:
		s.app.progress.logf("waiting for process %d, which works in %s", e.PID, s.dir)
	case pipeline.Skipped:
		s.app.progress.logf("%s: done before (%s)", at, elapsed(e.Elapsed))
	case pipeline.Started:
		s.app.progress.logf("%s ...", at)
	case pipeline.Resumed:
		s.app.progress.logf("%s, resumed ...", at)
	case pipeline.Finished:
		left := "all done"
		if rest := names[e.Index+1:]; len(rest) > 0 {
			left = "left: " + strings.Join(rest, ", ")
		}
		s.app.progress.logf("%s: %s; %s", at, elapsed(e.Elapsed), left)
	}
}

// showRun prints the short table and where the report lies.
func (s *session) showRun() error {
	run, err := report.Load(s.dir)
	if err != nil {
		return err
	}
	r, err := report.New(run)
	if err != nil {
		return err
	}
	if s.app.json {
		return s.app.printJSON(map[string]any{
			"run": s.dir, "summary": r.Summary(), "report": s.path("report.md"), "html": s.path("report.html"),
		})
	}
	if err := r.Summary().Terminal(s.app.stdout); err != nil {
		return err
	}
	if slices.Contains(s.Train.Presets, "paper") && s.Train.PaperSteps < 6400 {
		s.app.printf("The paper's mapping was trained for %d steps; it still gains at 6400 (train.paperSteps).\n", s.Train.PaperSteps)
	}
	s.app.printf("%s\n%s\n", s.path("report.md"), s.path("report.html"))
	return nil
}

// writeReport is the last stage.
func (s *session) writeReport(context.Context) error {
	run, err := report.Load(s.dir)
	if err != nil {
		return err
	}
	r, err := report.New(run)
	if err != nil {
		return err
	}
	return r.Write(s.dir)
}

// pulledModel is model.json, which later stages find the checkpoint by.
type pulledModel struct {
	Model string `json:"model"`
	Path  string `json:"path"`
}

// pullStage brings the model onto this machine.
func (s *session) pullStage(ctx context.Context) error {
	path, err := s.modelPath(ctx)
	if err != nil {
		return err
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	return writeModel(s.path("model.json"), pulledModel{s.Model, path})
}

var errNoModel = errors.New("model.json names no checkpoint; run again")
