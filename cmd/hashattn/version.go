package main

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/eval/result"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the program's version",
		Example: "  hashattn version --json",
		Args:    args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			v := result.Versions()
			if a.json {
				return a.printJSON(v)
			}
			a.printf("hashattn %s\n", v["hashattn"])
			keys := []string{}
			for k := range v {
				if k != "hashattn" {
					keys = append(keys, k)
				}
			}
			slices.Sort(keys)
			for _, k := range keys {
				a.printf("%s %s\n", k, v[k])
			}
			return nil
		},
	}
}
