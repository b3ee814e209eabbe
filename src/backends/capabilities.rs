//! The capabilities of a model, as its upstream's model list tells them.
//!
//! Each capability is present, absent or unknown. An unknown one is shown to clients where they
//! depend on it, and never a reason to reject a request: only an absent one is. Pure: an entry of a
//! list in, capabilities out.

use serde_json::Value;

/// What a model can do; `None` means unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Completes text.
    pub completion: Option<bool>,
    /// Calls tools.
    pub tools: Option<bool>,
    /// Completes text between a prompt and a suffix.
    pub insert: Option<bool>,
    /// Accepts images.
    pub vision: Option<bool>,
    /// Creates embeddings.
    pub embedding: Option<bool>,
    /// Reasons before it responds.
    pub thinking: Option<bool>,
    /// Accepts audio.
    pub audio: Option<bool>,
    /// Generates images.
    pub image: Option<bool>,
}

/// Values of `type` or `mode` of models that complete text.
const TEXT_KINDS: &[&str] = &["chat", "llm", "vlm", "language", "completion", "responses", "code"];

/// Values of `type` or `mode` of models that neither complete text nor create embeddings.
const NON_TEXT_KINDS: &[&str] = &[
    "rerank",
    "moderation",
    "image",
    "image_generation",
    "audio",
    "audio_transcription",
    "audio_speech",
    "transcribe",
    "video",
    "video_generation",
];

/// Names of the capability to create embeddings: `embed` is infinity's, `feature-extraction` that of
/// Hugging Face's tasks.
const EMBEDDING_WORDS: &[&str] = &[
    "embed",
    "embedding",
    "embeddings",
    "feature-extraction",
    "sentence-similarity",
    "image_embed",
    "audio_embed",
];

/// Names of capabilities of models that complete no text, unless completion is named beside them.
const NON_TEXT_WORDS: &[&str] = &[
    "rerank",
    "reranking",
    "classify",
    "score",
    "text-ranking",
    "text-classification",
    "tts",
    "text-to-speech",
    "speech",
    "transcription",
    "transcribe",
    "automatic-speech-recognition",
    "image_generation",
    "image-generation",
    "text-to-image",
    "moderation",
    "moderations",
];

/// Parts of ids that only embedding models have.
const EMBEDDING_ID_PARTS: &[&str] = &["embed", "bge-", "all-minilm"];

impl Capabilities {
    /// Reads an entry of a model list; `ollama_entry` is the entry of the same model in the list in
    /// Ollama's format that llama.cpp adds to its own.
    pub fn from_entry(id: &str, entry: &Value, ollama_entry: Option<&Value>) -> Self {
        let mut out = Self::default();
        out.read_modalities(entry);
        out.read_parameters(entry);
        out.read_kind(entry);
        if let Some(words) = ollama_entry.and_then(|it| it["capabilities"].as_array()) {
            out.read_words(words);
        }
        if ollama_entry.is_some() || entry["owned_by"] == "llamacpp" {
            // llama.cpp claims completion for every model, embedding models included.
            (out.completion, out.embedding, out.image) = (None, None, None);
        }
        match &entry["capabilities"] {
            Value::Array(words) => out.read_words(words),
            Value::Object(_) => out.read_flags(&entry["capabilities"]),
            _ => {}
        }
        out.read_flags(entry);
        out.infer_from_id(id)
    }

    /// The capabilities that an id alone implies.
    pub fn from_id(id: &str) -> Self {
        Self::default().infer_from_id(id)
    }

    /// Replaces unknown capabilities by those of `other`.
    pub fn or(&self, other: &Self) -> Self {
        Self {
            completion: self.completion.or(other.completion),
            tools: self.tools.or(other.tools),
            insert: self.insert.or(other.insert),
            vision: self.vision.or(other.vision),
            embedding: self.embedding.or(other.embedding),
            thinking: self.thinking.or(other.thinking),
            audio: self.audio.or(other.audio),
            image: self.image.or(other.image),
        }
    }

    /// The names under which Ollama lists capabilities (types/model/capability.go), without `image`,
    /// which clients do not expect. An embedding model never claims completion. Unknown tool support
    /// is claimed, because clients that use tools hide all other models.
    pub fn to_names(&self) -> Vec<&'static str> {
        let completes = self.can_complete();
        let names = [
            (completes, "completion"),
            (completes && self.tools != Some(false), "tools"),
            (completes && self.insert == Some(true), "insert"),
            (completes && self.vision == Some(true), "vision"),
            (self.is_embedding_only(), "embedding"),
            (completes && self.thinking == Some(true), "thinking"),
            (completes && self.audio == Some(true), "audio"),
        ];
        names.iter().filter(|(is_listed, _)| *is_listed).map(|(_, name)| *name).collect()
    }

    /// The names of all capabilities, as Ollama writes them.
    pub const NAMES: [&'static str; 7] =
        ["completion", "tools", "insert", "vision", "embedding", "thinking", "audio"];

    /// Exactly the capabilities whose names `has` knows.
    pub fn by_name(has: &dyn Fn(&str) -> bool) -> Self {
        Self {
            completion: Some(has("completion")),
            tools: Some(has("tools")),
            insert: Some(has("insert")),
            vision: Some(has("vision")),
            embedding: Some(has("embedding")),
            thinking: Some(has("thinking")),
            audio: Some(has("audio")),
            image: Some(has("image")),
        }
    }

    /// Exactly these of [`Self::NAMES`].
    pub fn from_names(names: &[String]) -> Self {
        let has = |name: &str| names.iter().any(|it| it.eq_ignore_ascii_case(name));
        Self { image: None, ..Self::by_name(&has) }
    }

    /// True unless the model is known not to complete text.
    pub fn can_complete(&self) -> bool {
        self.completion.unwrap_or(!self.is_embedding_only())
    }

    /// True if the model generates images and no text.
    pub fn is_image_only(&self) -> bool {
        self.image == Some(true) && !self.can_complete()
    }

    /// True if the model creates embeddings and is not known to complete text.
    fn is_embedding_only(&self) -> bool {
        self.embedding == Some(true) && self.completion != Some(true)
    }

    /// Reads input and output modalities (OpenRouter, llama.cpp, LocalAI).
    fn read_modalities(&mut self, entry: &Value) {
        let list = |name: &str| {
            let nested = entry["architecture"][name].as_array();
            nested.or_else(|| entry[name].as_array()).filter(|list| !list.is_empty())
        };
        if let Some(input) = list("input_modalities") {
            self.vision = Some(contains_any(input, &["image"]));
            self.audio = Some(contains_any(input, &["audio"]));
        }
        if let Some(output) = list("output_modalities") {
            self.embedding = Some(contains_any(output, &["embeddings", "embedding"]));
            self.completion = Some(contains_any(output, &["text"]));
            self.image = Some(contains_any(output, &["image"]));
        }
    }

    /// Reads the supported parameters (OpenRouter).
    fn read_parameters(&mut self, entry: &Value) {
        let list = entry["supported_parameters"].as_array();
        if let Some(list) = list.filter(|list| !list.is_empty()) {
            self.tools = Some(contains_any(list, &["tools"]));
            self.thinking = Some(contains_any(list, &["reasoning", "include_reasoning"]));
        }
        if entry["reasoning"].is_object() {
            self.thinking = Some(true);
        }
    }

    /// Reads the type of model (Together, LM Studio, LiteLLM).
    fn read_kind(&mut self, entry: &Value) {
        let kind = entry["type"].as_str().or_else(|| entry["mode"].as_str()).unwrap_or_default();
        if kind.starts_with("embedding") {
            (self.embedding, self.completion) = (Some(true), Some(false));
        } else if TEXT_KINDS.contains(&kind) {
            self.completion = Some(true);
        } else if NON_TEXT_KINDS.contains(&kind) {
            self.completion = Some(false);
        }
        match kind {
            "image" | "image_generation" => self.image = Some(true),
            "vlm" => self.vision = Some(true),
            "llm" => self.vision = Some(false),
            _ => {}
        }
    }

    /// Reads a list of capability names. A missing name leaves the capability unknown, except that an
    /// embedding model without completion cannot complete text.
    fn read_words(&mut self, words: &[Value]) {
        if contains_any(words, EMBEDDING_WORDS) || contains_any(words, NON_TEXT_WORDS) {
            self.completion = Some(false);
        }
        let known = [
            (
                &mut self.completion,
                &[
                    "completion",
                    "completions",
                    "chat",
                    "chat_completion",
                    "chat-completion",
                    "generate",
                    "text-generation",
                    "text_generation",
                ][..],
            ),
            (
                &mut self.tools,
                &[
                    "tools",
                    "tool_use",
                    "tool-use",
                    "tool_calling",
                    "tool-calling",
                    "function_calling",
                    "function-calling",
                ],
            ),
            (&mut self.insert, &["insert", "fim"]),
            (&mut self.vision, &["vision", "multimodal", "image-text-to-text"]),
            (&mut self.embedding, EMBEDDING_WORDS),
            (&mut self.image, &["image_generation", "image-generation", "text-to-image"]),
            (&mut self.thinking, &["thinking", "reasoning"]),
            (&mut self.audio, &["audio"]),
        ];
        for (capability, names) in known {
            if contains_any(words, names) {
                *capability = Some(true);
            }
        }
    }

    /// Reads boolean members (Mistral, LM Studio, LiteLLM).
    fn read_flags(&mut self, members: &Value) {
        let flag = |name: &str| members[name].as_bool();
        let (chat, fim) = (flag("completion_chat"), flag("completion_fim"));
        let completes = chat.map(|chat| chat || fim == Some(true));
        // LM Studio lists the settings of a model that reasons.
        let modes = members["reasoning"]["allowed_options"].as_array();
        let modes = modes.map(|options| options.iter().any(|option| option != "off"));
        let thinks = flag("reasoning").or_else(|| flag("supports_reasoning")).or(modes);
        let known = [
            (&mut self.completion, completes),
            (&mut self.insert, fim),
            (&mut self.vision, flag("vision").or_else(|| flag("supports_vision"))),
            (&mut self.audio, flag("audio").or_else(|| flag("supports_audio_input"))),
            (&mut self.thinking, thinks),
            (
                &mut self.tools,
                flag("function_calling")
                    .or_else(|| flag("trained_for_tool_use"))
                    .or_else(|| flag("supports_function_calling")),
            ),
        ];
        for (capability, flag) in known {
            *capability = flag.or(*capability);
        }
    }

    /// Recognises an embedding model by its id, unless the list says otherwise.
    fn infer_from_id(mut self, id: &str) -> Self {
        let id = id.to_ascii_lowercase();
        let embeds = EMBEDDING_ID_PARTS.iter().any(|word| id.contains(word));
        // `bge-reranker` has the name of a family that embeds, and ranks.
        if self.completion != Some(true) && embeds && !id.contains("rerank") {
            self.embedding = self.embedding.or(Some(true));
        }
        self
    }
}

fn contains_any(list: &[Value], words: &[&str]) -> bool {
    list.iter().filter_map(Value::as_str).any(|word| words.contains(&word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(entry: Value, expected: &[&str]) -> Capabilities {
        let id = entry["id"].as_str().unwrap_or("x");
        let found = Capabilities::from_entry(id, &entry, None);
        assert_eq!(found.to_names(), expected, "{entry}");
        found
    }

    #[test]
    fn nothing_known_is_a_model_that_talks_and_calls() {
        let found = check(json!({"id": "gpt-4o"}), &["completion", "tools"]);
        assert_eq!(found, Capabilities::default());
        let base = json!({"id": "x", "supported_parameters": [], "type": "base"});
        check(base, &["completion", "tools"]);
    }

    #[test]
    fn openrouter_tells_modalities_and_parameters() {
        let modalities =
            json!({"input_modalities": ["text", "image"], "output_modalities": ["text"]});
        let entry = json!({"architecture": modalities,
            "supported_parameters": ["tools", "temperature", "reasoning"]});
        check(entry, &["completion", "tools", "vision", "thinking"]);
        let found = check(json!({"supported_parameters": ["temperature"]}), &["completion"]);
        assert_eq!((found.tools, found.thinking), (Some(false), Some(false)));
        let embeds = json!({"input_modalities": ["text"], "output_modalities": ["embeddings"]});
        check(json!({ "architecture": embeds }), &["embedding"]);
        check(json!({"architecture": {"output_modalities": ["image"]}}), &[]);
    }

    #[test]
    fn mistral_tells_flags() {
        let flags = |chat: bool, fim: bool, calls: bool| {
            json!({"id": "m", "capabilities": {"completion_chat": chat, "completion_fim": fim,
                "function_calling": calls, "vision": false, "reasoning": false}})
        };
        check(flags(true, false, true), &["completion", "tools"]);
        check(flags(false, true, false), &["completion", "insert"]);
        check(flags(false, false, false), &[]);
        let embed = json!({"id": "mistral-embed", "capabilities": {"completion_chat": false}});
        check(embed, &["embedding"]);
    }

    #[test]
    fn kinds_are_known_by_their_names() {
        check(json!({"type": "embeddings"}), &["embedding"]);
        check(json!({"type": "embedding", "id": "x-chat"}), &["embedding"]);
        check(json!({"mode": "embedding"}), &["embedding"]);
        check(json!({"type": "chat", "id": "embedded-llm"}), &["completion", "tools"]);
        check(json!({"type": "rerank"}), &[]);
        assert!(check(json!({"mode": "image_generation"}), &[]).is_image_only());
        assert!(check(json!({"type": "image"}), &[]).is_image_only());
        assert!(!check(json!({"type": "audio"}), &[]).is_image_only());
        let vlm = json!({"type": "vlm", "capabilities": ["tool_use"]});
        check(vlm, &["completion", "tools", "vision"]);
    }

    #[test]
    fn lists_of_words_and_flags_beside_them_are_read() {
        let lm_studio = json!({"type": "llm",
            "capabilities": {"vision": true, "trained_for_tool_use": false}});
        check(lm_studio, &["completion", "vision"]);
        let litellm = json!({"mode": "chat", "supports_vision": true, "supports_reasoning": true,
            "supports_function_calling": null});
        check(litellm, &["completion", "tools", "vision", "thinking"]);
        let local = json!({"capabilities": ["chat", "tools", "thinking"],
            "input_modalities": ["text", "audio"]});
        check(local, &["completion", "tools", "thinking", "audio"]);
        let embeds = json!({"capabilities": ["embeddings"], "output_modalities": ["text"]});
        check(embeds, &["embedding"]);
        let mimicked = json!({"capabilities": ["completion", "multimodal"]});
        let found = Capabilities::from_entry("x", &json!({"id": "x"}), Some(&mimicked));
        assert_eq!(found.to_names(), ["completion", "tools", "vision"]);
    }

    #[test]
    fn the_words_of_other_servers_are_read() {
        // infinity-emb 0.0.77, /models
        check(json!({"id": "m", "capabilities": ["embed"]}), &["embedding"]);
        check(json!({"id": "m", "capabilities": ["rerank"]}), &[]);
        check(json!({"id": "m", "capabilities": ["classify"]}), &[]);
        check(json!({"id": "m", "capabilities": ["embed", "image_embed"]}), &["embedding"]);
        check(json!({"id": "m", "capabilities": ["feature-extraction"]}), &["embedding"]);
        check(json!({"id": "m", "capabilities": ["text-to-speech"]}), &[]);
        let both = json!({"id": "m", "capabilities": ["chat", "rerank"]});
        check(both, &["completion", "tools"]);
    }

    #[test]
    fn what_llama_cpp_says_of_every_model_counts_for_none() {
        let entry = json!({"id": "nomic-embed-text-v1.5", "owned_by": "llamacpp", "architecture":
            {"input_modalities": ["text"], "output_modalities": ["text"]}});
        let mimicked = json!({"capabilities": ["completion"]});
        let found = Capabilities::from_entry("nomic-embed-text-v1.5", &entry, Some(&mimicked));
        assert_eq!(found.to_names(), ["embedding"]);
    }

    #[test]
    fn embedding_models_are_known_by_their_names_where_nothing_is_said() {
        for id in ["text-embedding-3-small", "nomic-embed-text", "BAAI/bge-m3", "all-minilm:33m"] {
            assert_eq!(Capabilities::from_id(id).to_names(), ["embedding"], "{id}");
        }
        assert!(Capabilities::from_id("llama3").can_complete());
    }
}
