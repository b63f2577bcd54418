package longbench

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

// Category is one of the six kinds of LongBench tasks.
type Category string

// The categories.
const (
	SingleDocQA   Category = "single-document QA"
	MultiDocQA    Category = "multi-document QA"
	Summarization Category = "summarization"
	FewShot       Category = "few-shot learning"
	Synthetic     Category = "synthetic"
	Code          Category = "code completion"
)

// Language is what a task's text is written in.
type Language string

// The languages.
const (
	English      Language = "en"
	Chinese      Language = "zh"
	CodeLanguage Language = "code"
)

// Task is one LongBench task: all that distinguishes it from the others.
type Task struct {
	Name      string
	Category  Category
	Language  Language
	Metric    Metric
	MaxTokens int  // a prediction has at most so many tokens
	Chat      bool // the prompt goes through the model's chat template

	// FirstLine: only the first line of a prediction is scored.
	FirstLine bool
	// StopNewline: the last token of an encoded newline ends the generation,
	// besides the end-of-sequence token, unless it is the first token generated.
	StopNewline bool

	Samples  int // in the official data set
	SamplesE int // in LongBench-E; 0 for a task that is not part of it

	// Prompt is the official template, with {context} and {input}.
	Prompt string
}

// multihopPrompt serves the three English tasks of questions over several passages.
const multihopPrompt = "Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\n" +
	"The following are given passages.\n" +
	"{context}\n\n" +
	"Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\n" +
	"Question: {input}\n" +
	"Answer:"

// tasks is in the order of the official prediction script. Prompts and limits are
// those of LongBench/config upstream (MIT, see LICENSE.LongBench), slips included
// ("asconcisely"): other prompts give other scores.
var tasks = []Task{
	{Name: "narrativeqa", Category: SingleDocQA, Language: English, Metric: QAF1, MaxTokens: 128, Chat: true, Samples: 200,
		Prompt: "You are given a story, which can be either a novel or a movie script, and a question. Answer the question asconcisely as you can, using a single phrase if possible. Do not provide any explanation.\n\n" +
			"Story: {context}\n\n" +
			"Now, answer the question based on the story asconcisely as you can, using a single phrase if possible. Do not provide any explanation.\n\n" +
			"Question: {input}\n\n" +
			"Answer:",
	},
	{Name: "qasper", Category: SingleDocQA, Language: English, Metric: QAF1, MaxTokens: 128, Chat: true, Samples: 200, SamplesE: 224,
		Prompt: "You are given a scientific article and a question. Answer the question as concisely as you can, using a single phrase or sentence if possible. If the question cannot be answered based on the information in the article, write \"unanswerable\". If the question is a yes/no question, answer \"yes\", \"no\", or \"unanswerable\". Do not provide any explanation.\n\n" +
			"Article: {context}\n\n" +
			" Answer the question based on the above article as concisely as you can, using a single phrase or sentence if possible. If the question cannot be answered based on the information in the article, write \"unanswerable\". If the question is a yes/no question, answer \"yes\", \"no\", or \"unanswerable\". Do not provide any explanation.\n\n" +
			"Question: {input}\n\n" +
			"Answer:",
	},
	{Name: "multifieldqa_en", Category: SingleDocQA, Language: English, Metric: QAF1, MaxTokens: 64, Chat: true, Samples: 150, SamplesE: 150,
		Prompt: "Read the following text and answer briefly.\n\n" +
			"{context}\n\n" +
			"Now, answer the following question based on the above text, only give me the answer and do not output any other words.\n\n" +
			"Question: {input}\n" +
			"Answer:",
	},
	{Name: "multifieldqa_zh", Category: SingleDocQA, Language: Chinese, Metric: QAF1Chinese, MaxTokens: 64, Chat: true, Samples: 200,
		Prompt: "阅读以下文字并用中文简短回答：\n\n" +
			"{context}\n\n" +
			"现在请基于上面的文章回答下面的问题，只告诉我答案，不要输出任何其他字词。\n\n" +
			"问题：{input}\n" +
			"回答：",
	},
	{Name: "hotpotqa", Category: MultiDocQA, Language: English, Metric: QAF1, MaxTokens: 32, Chat: true, Samples: 200, SamplesE: 300,
		Prompt: multihopPrompt,
	},
	{Name: "2wikimqa", Category: MultiDocQA, Language: English, Metric: QAF1, MaxTokens: 32, Chat: true, Samples: 200, SamplesE: 300,
		Prompt: multihopPrompt,
	},
	{Name: "musique", Category: MultiDocQA, Language: English, Metric: QAF1, MaxTokens: 32, Chat: true, Samples: 200,
		Prompt: multihopPrompt,
	},
	{Name: "dureader", Category: MultiDocQA, Language: Chinese, Metric: RougeLChinese, MaxTokens: 128, Chat: true, Samples: 200,
		Prompt: "请基于给定的文章回答下述问题。\n\n" +
			"文章：{context}\n\n" +
			"请基于上述文章回答下面的问题。\n\n" +
			"问题：{input}\n" +
			"回答：",
	},
	{Name: "gov_report", Category: Summarization, Language: English, Metric: RougeL, MaxTokens: 512, Chat: true, Samples: 200, SamplesE: 300,
		Prompt: "You are given a report by a government agency. Write a one-page summary of the report.\n\n" +
			"Report:\n" +
			"{context}\n\n" +
			"Now, write a one-page summary of the report.\n\n" +
			"Summary:",
	},
	{Name: "qmsum", Category: Summarization, Language: English, Metric: RougeL, MaxTokens: 512, Chat: true, Samples: 200,
		Prompt: "You are given a meeting transcript and a query containing a question or instruction. Answer the query in one or more sentences.\n\n" +
			"Transcript:\n" +
			"{context}\n\n" +
			"Now, answer the query based on the above meeting transcript in one or more sentences.\n\n" +
			"Query: {input}\n" +
			"Answer:",
	},
	{Name: "multi_news", Category: Summarization, Language: English, Metric: RougeL, MaxTokens: 512, Chat: true, Samples: 200, SamplesE: 294,
		Prompt: "You are given several news passages. Write a one-page summary of all news. \n\n" +
			"News:\n" +
			"{context}\n\n" +
			"Now, write a one-page summary of all the news.\n\n" +
			"Summary:",
	},
	{Name: "vcsum", Category: Summarization, Language: Chinese, Metric: RougeLChinese, MaxTokens: 512, Chat: true, Samples: 200,
		Prompt: "下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n" +
			"会议记录：\n" +
			"{context}\n\n" +
			"会议总结：",
	},
	{Name: "trec", Category: FewShot, Language: English, Metric: Classification, MaxTokens: 64, FirstLine: true, Samples: 200, SamplesE: 300,
		Prompt: "Please determine the type of the question below. Here are some examples of questions.\n\n" +
			"{context}\n" +
			"{input}",
	},
	{Name: "triviaqa", Category: FewShot, Language: English, Metric: QAF1, MaxTokens: 32, FirstLine: true, Samples: 200, SamplesE: 300,
		Prompt: "Answer the question based on the given passage. Only give me the answer and do not output any other words. The following are some examples.\n\n" +
			"{context}\n\n" +
			"{input}",
	},
	{Name: "samsum", Category: FewShot, Language: English, Metric: RougeL, MaxTokens: 128, FirstLine: true, StopNewline: true, Samples: 200, SamplesE: 300,
		Prompt: "Summarize the dialogue into a few short sentences. The following are some examples.\n\n" +
			"{context}\n\n" +
			"{input}",
	},
	{Name: "lsht", Category: FewShot, Language: Chinese, Metric: Classification, MaxTokens: 64, FirstLine: true, Samples: 200,
		Prompt: "请判断给定新闻的类别，下面是一些例子。\n\n" +
			"{context}\n" +
			"{input}",
	},
	{Name: "passage_count", Category: Synthetic, Language: English, Metric: Count, MaxTokens: 32, Chat: true, Samples: 200, SamplesE: 300,
		Prompt: "There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. Please carefully read these paragraphs and determine how many unique paragraphs there are after removing duplicates. In other words, how many non-repeating paragraphs are there in total?\n\n" +
			"{context}\n\n" +
			"Please enter the final count of unique paragraphs after removing duplicates. The output format should only contain the number, such as 1, 2, 3, and so on.\n\n" +
			"The final answer is: ",
	},
	{Name: "passage_retrieval_en", Category: Synthetic, Language: English, Metric: Retrieval, MaxTokens: 32, Chat: true, Samples: 200, SamplesE: 300,
		Prompt: "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which paragraph the abstract is from.\n\n" +
			"{context}\n\n" +
			"The following is an abstract.\n\n" +
			"{input}\n\n" +
			"Please enter the number of the paragraph that the abstract is from. The answer format must be like \"Paragraph 1\", \"Paragraph 2\", etc.\n\n" +
			"The answer is: ",
	},
	{Name: "passage_retrieval_zh", Category: Synthetic, Language: Chinese, Metric: RetrievalChinese, MaxTokens: 32, Chat: true, Samples: 200,
		Prompt: "以下是若干段落文字，以及其中一个段落的摘要。请确定给定的摘要出自哪一段。\n\n" +
			"{context}\n\n" +
			"下面是一个摘要\n\n" +
			"{input}\n\n" +
			"请输入摘要所属段落的编号。答案格式必须是\"段落1\"，\"段落2\"等格式\n\n" +
			"答案是：",
	},
	{Name: "lcc", Category: Code, Language: CodeLanguage, Metric: CodeSimilarity, MaxTokens: 64, Samples: 500, SamplesE: 300,
		Prompt: "Please complete the code given below. \n" +
			"{context}Next line of code:\n",
	},
	{Name: "repobench-p", Category: Code, Language: CodeLanguage, Metric: CodeSimilarity, MaxTokens: 64, Samples: 500, SamplesE: 300,
		Prompt: "Please complete the code given below. \n" +
			"{context}{input}Next line of code:\n",
	},
}

// Tasks returns the 21 tasks of LongBench in the official order.
func Tasks() []Task { return slices.Clone(tasks) }

// TasksE returns the 13 tasks of LongBench-E in the official order.
func TasksE() []Task {
	return slices.DeleteFunc(Tasks(), func(t Task) bool { return t.SamplesE == 0 })
}

// TaskByName finds a task of the table.
func TaskByName(name string) (Task, bool) {
	i := slices.IndexFunc(tasks, func(t Task) bool { return t.Name == name })
	if i < 0 {
		return Task{}, false
	}
	return tasks[i], true
}

// PromptHash is the SHA-256 of the task's prompt template in hexadecimal. Results
// made with different prompts are not comparable; the hash says so.
func (t Task) PromptHash() string {
	sum := sha256.Sum256([]byte(t.Prompt))
	return hex.EncodeToString(sum[:])
}

// BuildPrompt fills the template with a sample, in one pass: braces in the
// sample's own text stay as they are.
func (t Task) BuildPrompt(s Sample) string {
	return strings.NewReplacer("{context}", s.Context, "{input}", s.Input).Replace(t.Prompt)
}

// PostProcess cuts a prediction to what is scored.
func (t Task) PostProcess(prediction string) string {
	if !t.FirstLine {
		return prediction
	}
	line, _, _ := strings.Cut(strings.TrimLeft(prediction, "\n"), "\n")
	return line
}

// TruncateMiddle keeps the first and the last limit/2 token ids of a prompt that
// has more than limit: the middle of a prompt matters least. The prompt that a
// model then reads is the text of head followed by the text of tail, each decoded
// without special tokens (and encoded again), as the official script does. A
// prompt within the limit comes back whole in head, with a nil tail. A limit
// below 2 keeps nothing. Both are parts of ids.
func TruncateMiddle(ids []int32, limit int) (head, tail []int32) {
	if len(ids) <= limit {
		return ids, nil
	}
	half := max(limit, 0) / 2
	return ids[:half], ids[len(ids)-half:]
}
