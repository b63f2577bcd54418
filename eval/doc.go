// Package eval measures what sparse attention costs in quality and gains in
// time: recall and perplexity against exact attention (recall.go,
// perplexity.go), latency (bench.go), and benchmark scores (longbench.go).
//
// Every measurement runs a selector beside dense attention on the same tokens
// and gives rows for a file of package result. What was really read is
// counted by the device and stands in every row.
package eval
