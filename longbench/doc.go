// Package longbench is LongBench v1 and LongBench-E as data: the table of tasks
// with their official prompts and limits (Tasks), the samples (Open, Embedded)
// and the official scorer (Score, Task.Score).
//
// Data flows through it once around a model, which is somebody else's:
//
//	Dataset.Samples -> Task.BuildPrompt -> TruncateMiddle -> (model) -> prediction
//	prediction -> Task.Score, or a folder of them -> Score -> Result
//
// Scores equal those of the Python scorer (github.com/THUDM/LongBench, metrics.py
// and eval.py) on every task; where that scorer has a quirk, the quirk is kept and
// the comment beside it says so.
package longbench
