package longbench_test

import (
	"fmt"
	"log"
	"strings"

	"github.com/hashattn/hashattn/longbench"
)

// A prompt from a sample, and the score of what a model might answer.
func Example() {
	task, _ := longbench.TaskByName("multifieldqa_en")
	for s, err := range longbench.Embedded().Samples(task, false) {
		if err != nil {
			log.Fatal(err)
		}
		prompt := task.BuildPrompt(s)
		fmt.Println(prompt[strings.LastIndex(prompt, "Question:"):])
		score, _, err := task.Score("Members who took the course", s.Answers, s.AllClasses, longbench.Difflib)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%.3f\n", score)
	}
	// Output:
	// Question: How many broken things did the repair table mend?
	// Answer:
	// 0.000
	// Question: Who may borrow a chainsaw?
	// Answer:
	// 0.800
}
