// Package eval measures what sparse attention costs in quality and gains in
// time: recall and perplexity against exact attention (recall.go,
// perplexity.go) and latency (bench_attention.go, bench_hash.go,
// bench_decode.go). Benchmark answers and their scores are package benchmark,
// the files they go to package result, the stages of a run package pipeline,
// tables and plots package report.
//
// Every measurement runs a selector beside dense attention on the same tokens
// and gives rows for a file of package result. What was really read is
// counted by the device and stands in every row.
package eval
