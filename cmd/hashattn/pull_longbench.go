package main

import (
	"context"
	"fmt"

	"github.com/hashattn/hashattn/longbench"
	"github.com/hashattn/hashattn/model/hub"
)

// longBenchPath is where pull longbench puts the published data.
func longBenchPath() (string, error) { return hub.DatasetPath(longbench.Repository, longbench.Archive) }

// pullLongBench downloads LongBench's data.zip unless it is in the cache.
func (a *app) pullLongBench(ctx context.Context) (string, error) {
	path, err := longBenchPath()
	if err != nil || checkLongBench(path) == nil {
		return path, err
	}
	path, err = a.pull(ctx, longbench.Archive, func(ctx context.Context, _ string, o hub.Options) (string, error) {
		return hub.Dataset(ctx, longbench.Repository, longbench.Archive, o)
	})
	if err == nil {
		err = checkLongBench(path)
	}
	if err != nil {
		return "", fmt.Errorf("pull longbench: %w", err)
	}
	return path, nil
}

func checkLongBench(path string) error {
	d, err := longbench.Open(path)
	if err != nil {
		return err
	}
	return d.Close()
}
