package benchmark

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestCompare(t *testing.T) {
	here, there := t.TempDir(), t.TempDir()
	write(t, here, "qasper.jsonl", `{"pred":"the same","sample":"a","prompt":"x","tokens":[1,2]}
{"pred":"one größe or other","sample":"b","prompt":"x","tokens":[1,2,3]}
{"pred":"the same","sample":"c","prompt":"x","tokens":[1,2]}
{"pred":"only here","sample":"d","prompt":"x","tokens":[1]}
`)
	write(t, there, "qasper.jsonl", `{"pred":"the same","sample":"c","prompt":"y","tokens":[1,2],"margins":[1,1]}
{"pred":"one große, another","sample":"b","prompt":"x","tokens":[1,4],"margins":[3,0.001,2]}
{"pred":"the same","sample":"a","prompt":"x","tokens":[1,2],"margins":[1,1]}
{"pred":"only there","sample":"e","prompt":"x","tokens":[1],"margins":[1]}
`)
	// predictions of the official script name neither samples nor tokens
	write(t, here, "trec.jsonl", "{\"pred\":\"Number\"}\n{\"pred\":\"Human\"}\n")
	write(t, there, "trec.jsonl", "{\"pred\":\"Number\"}\n{\"pred\":\"Place\",\"sample\":\"x\"}\n")
	write(t, here, "lcc.jsonl", "{\"pred\":\"x\"}\n") // a task that the other lacks
	got, err := Compare(here, there)
	if err != nil {
		t.Fatal(err)
	}
	lead := .001
	want := []Comparison{
		{Task: "qasper", Samples: 3, Equal: 1, Here: 1, There: 1, Differences: []Difference{
			{Sample: "b", Token: 1, Before: "one gr", Here: "öße or other", There: "oße, another", Lead: &lead},
			{Sample: "c", Prompts: true, Token: 2, Before: "the same"},
		}},
		{Task: "trec", Samples: 2, Equal: 1, Differences: []Difference{
			{Sample: "line 2", Token: -1, Here: "Human", There: "Place"},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	for text, problem := range map[string]string{
		"{\"pred\":\"x\"}\n{\"pred\":": "cut off",
		"":                             "no predictions",
		"{\"pred\":1}\n":               "qasper.jsonl:1: damaged line",
	} {
		write(t, there, "qasper.jsonl", text)
		if _, err := Compare(here, there); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("error %v, want %q", err, problem)
		}
	}
	if _, err := Compare(here, t.TempDir()); err == nil || !strings.Contains(err.Error(), "no file TASK.jsonl in common") {
		t.Errorf("nothing in common gives %v", err)
	}
}
