// Package benchmark asks a model questions under several ways of attending and
// scores its answers: LongBench (longbench.go), needle in a haystack (niah.go)
// and RULER (ruler.go).
//
// Data flows through Run:
//
//	Benchmark.Questions -> prompt tokens (prompt.go)
//	  -> one dense prefill, then every setting's answer behind it (run.go, decode.go)
//	  -> DIR/SETTING/TASK.jsonl, a line an answer, as it is made (predictions.go)
//	  -> rows of scores beside dense, with bootstrap intervals (scores.go, bootstrap.go)
//
// A run that was killed continues where it stopped. Compare sets two folders of
// predictions side by side.
package benchmark
