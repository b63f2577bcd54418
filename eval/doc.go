// Package eval measures what sparse attention costs in quality: recall and
// perplexity against exact attention, and from them budgets that adapt
// (calibrate.go). What it costs and gains in time is package latency, benchmark
// answers and their scores are package benchmark, the files all of them go to
// package result, the stages of a run package pipeline, tables and plots package
// report.
//
// Every measurement runs a selector beside dense attention on the same tokens
// and gives rows for a file of package result. What was really read is
// counted by the device and stands in every row.
package eval
