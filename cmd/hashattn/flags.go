package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hashattn/hashattn/configs"
)

// keyAnnotation marks a flag that sets a key of the experiment.
const keyAnnotation = "hashattn-key"

// bindKeys gives a command the experiment file, --set, and a flag for each key
// of the sections and each single key, named by the last part of its path:
// train.paperSteps is --paper-steps. device.kind is --device.
func (a *app) bindKeys(c *cobra.Command, keys ...string) {
	c.Flags().StringVarP(&a.file, "config", "c", "", "experiment `file`, or one that ships with the program: "+strings.Join(configs.Shipped(), ", "))
	a.bindSet(c)
	for _, k := range configs.Keys() {
		for _, want := range keys {
			if k.Path != want && !strings.HasPrefix(k.Path, want+".") {
				continue
			}
			name := kebab(k.Path[strings.LastIndexByte(k.Path, '.')+1:])
			if k.Path == "device.kind" {
				name = "device"
			}
			if c.Flags().Lookup(name) != nil {
				panic("two keys of " + c.Name() + " are --" + name)
			}
			f := c.Flags().VarPF(new(keyValue), name, "", k.Description)
			f.Annotations = map[string][]string{keyAnnotation: {k.Path}}
			if k.Bool {
				f.NoOptDefVal = "true"
			}
		}
	}
}

func (a *app) bindSet(c *cobra.Command) {
	c.Flags().StringArrayVar(&a.sets, "set", nil, "set a key of the experiment: `key=value`, e.g. train.steps=400")
}

// keyValue is a flag's text; package configs gives it a meaning.
type keyValue string

func (v *keyValue) Set(s string) error { *v = keyValue(s); return nil }
func (v *keyValue) String() string     { return string(*v) }
func (v *keyValue) Type() string       { return "value" }

// kebab is paper-steps for paperSteps, hotpot-qa for hotpotQA.
func kebab(key string) string {
	var b strings.Builder
	upper := true // no hyphen before the first letter
	for _, r := range key {
		before := upper
		if upper = r >= 'A' && r <= 'Z'; upper {
			if !before {
				b.WriteByte('-')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// experiment merges the experiment file, the environment, the command's flags,
// --set and what else is given.
func (a *app) experiment(c *cobra.Command, more ...configs.Source) (*configs.Experiment, error) {
	name := "the experiment"
	var content []byte
	if a.file != "" {
		var err error
		name = a.file
		if content, err = configs.ReadFile(a.file); err != nil {
			return nil, usageError{err}
		}
		if content == nil {
			content = []byte{}
		}
	}
	var sources []configs.Source
	c.Flags().Visit(func(f *pflag.Flag) {
		if key := f.Annotations[keyAnnotation]; len(key) == 1 {
			sources = append(sources, configs.Source{Name: "--" + f.Name, Key: key[0], Value: f.Value.String()})
		}
	})
	for _, s := range a.sets {
		source, err := configs.SetFlag(s)
		if err != nil {
			return nil, err
		}
		for _, flag := range sources {
			if flag.Name != source.Name && flag.Key == source.Key && flag.Value != source.Value {
				return nil, usagef("%s is both %s by %s and %s by --set; give one", source.Key, flag.Value, flag.Name, source.Value)
			}
		}
		sources = append(sources, source)
	}
	e, err := configs.Load(name, content, os.Environ(), append(sources, more...)...)
	if err != nil {
		return nil, usageError{err}
	}
	return e, nil
}

// changed says whether the user gave one of the flags.
func changed(c *cobra.Command, names ...string) bool {
	return slices.ContainsFunc(names, c.Flags().Changed)
}

// runDir is the folder of an experiment's files.
func runDir(e *configs.Experiment) string { return filepath.Join(e.Output.Dir, e.Name) }

// printJSON writes v to standard output.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printf writes to standard output.
func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.stdout, format, args...) }

// args wraps a check of arguments so that its errors say how the command is
// called.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, given []string) error {
		if err := check(c, given); err != nil {
			return fmt.Errorf("%w; usage: %s", err, c.UseLine())
		}
		return nil
	}
}
