package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/eval/report"
	"github.com/hashattn/hashattn/eval/result"
)

func (a *app) evalCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "eval",
		Short: "Measure what sparse attention costs in quality",
		Long: `eval measures selectors beside dense attention on the same tokens.
` + exitHelp,
		Example: `  hashattn eval recall --config quickstart
  hashattn eval perplexity --config quickstart --sparsities 1/32
  hashattn eval longbench --config quickstart --tasks qasper,trec
  hashattn eval score predictions/dense`,
		Args: args(cobra.NoArgs), // a measurement that it does not know, then
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.evalRecallCommand(), a.evalPerplexityCommand(), a.evalLongBenchCommand(), a.evalNIAHCommand(), a.evalRulerCommand(), a.evalScoreCommand())
	return c
}

// measureOptions is what the commands that measure selectors share.
type measureOptions struct {
	calibration, out string
	mappings         []string
}

// bind gives a command their flags; file is the default of --out in the run's
// folder, beside whatever else is said of it.
func (o *measureOptions) bind(c *cobra.Command, file, beside string) {
	c.Flags().StringVar(&o.calibration, "calibration", "", "trace that pq and doublesparsity calibrate on (default: traces/calibration in the run's `folder`)")
	c.Flags().StringArrayVar(&o.mappings, "mapping", nil, "mapping `file`, may be repeated (default: those of the run)")
	c.Flags().StringVarP(&o.out, "out", "o", "", "`file` to write"+beside+" (default: "+file+" in the run's folder)")
}

// fill sets what the user left out; file is that of bind.
func (o *measureOptions) fill(s *session, file string) {
	if o.calibration == "" {
		o.calibration = s.path("traces", "calibration")
	}
	if o.out == "" {
		o.out = s.path(filepath.FromSlash(file))
	}
}

// mappingFiles are the mappings to measure: those named, else the run's.
func (s *session) mappingFiles(named []string) ([]string, error) {
	if len(named) > 0 {
		return named, nil
	}
	var out []string
	for _, p := range s.Train.Presets {
		path := s.path("mappings", p+".safetensors")
		if _, err := os.Stat(path); err == nil {
			out = append(out, path)
		}
	}
	return out, nil
}

// finish writes a result file and prints its tables.
func (s *session) finish(path string, f result.File) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := result.Write(path, f); err != nil {
		return err
	}
	s.app.progress.logf("wrote %s", path)
	return nil
}

// show prints a result file that was just written.
func (s *session) show(path string, f result.File) error {
	if s.app.json {
		return s.app.printJSON(f)
	}
	run, err := report.Load(path)
	if err != nil {
		return fmt.Errorf("what was written cannot be read back: %w", err)
	}
	r, err := report.New(run)
	if err != nil {
		return err
	}
	return r.Terminal(s.app.stdout)
}
