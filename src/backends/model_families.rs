//! What a model's name tells of its family: how its thinking is switched, and whether it was trained
//! to see its own reasoning again.
//!
//! Names are all that an unknown server, or a server of many models, tells. Sources: the model cards
//! and chat templates of DeepSeek V3.1, Kimi K2.5 and Granite (`thinking`), of Qwen3 and GLM 4.5
//! (`enable_thinking`); the API references of DeepSeek, Moonshot, Z.ai and Volcengine Ark
//! (`thinking.type`) and of Alibaba Cloud Model Studio (`enable_thinking`).
//! Invariant: a name that is not understood has no family.

/// The member of a chat completion with which the maker of a model switches its thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinkingSwitch {
    /// `thinking: {"type": "enabled"}`.
    Type,
    /// `enable_thinking: true`.
    EnableThinking,
    /// `reasoning_effort`, which cannot be switched off.
    Effort,
}

/// How the maker of a model switches its thinking; `None` if the name does not tell.
pub fn thinking_switch(id: &str) -> Option<ThinkingSwitch> {
    let name = normalize(id);
    if name.contains("gpt-oss") {
        return Some(ThinkingSwitch::Effort);
    }
    let is_seed = name.contains("doubao") && (name.contains("seed") || name.contains("thinking"));
    if is_seed || is_hybrid_deepseek(&name) || is_hybrid_kimi(&name) || is_thinking_glm(&name) {
        return Some(ThinkingSwitch::Type);
    }
    is_hybrid_qwen(&name).then_some(ThinkingSwitch::EnableThinking)
}

/// The values of `think` that a model takes, from little to much, and the default; `off` and `on` are
/// switches. `None` if the name does not tell.
pub fn thinking_values(id: &str) -> Option<(&'static str, &'static str)> {
    const HOSTED: [&str; 4] = ["-plus", "-turbo", "-flash", "-max"];
    let name = normalize(id);
    let last = name.rsplit('/').next().unwrap_or_default();
    // `gpt-35-turbo` is Azure's spelling of 3.5.
    let is_newer = |least: (u32, u32)| {
        is_at_least(last, "gpt", "", least) && !is_at_least(last, "gpt", "", (10, 0))
    };
    let is_o_series = ["o1", "o3", "o4"].iter().any(|it| {
        last.strip_prefix(it).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    });
    let always = ["deepseek-r1", "deepseek-reasoner", "qwq", "magistral"];
    Some(match () {
        () if name.contains("gpt-oss") || is_o_series => ("low medium high", "medium"),
        () if last.contains("chat") && is_newer((5, 0)) => return None,
        () if is_newer((5, 2)) => ("off low medium high xhigh", "off"),
        () if is_newer((5, 1)) => ("off low medium high", "off"),
        () if is_newer((5, 0)) => ("minimal low medium high", "medium"),
        () if is_at_least(&name, "deepseek", "v", (4, 0)) => ("off low high max", "high"),
        () if is_hybrid_deepseek(&name) => ("off on", "off"),
        () if is_at_least(&name, "gemma", "", (4, 0)) => ("off on", "off"),
        () if is_at_least(&name, "minimax", "m", (2, 0))
            || always.iter().any(|it| name.contains(it)) =>
        {
            ("on", "on")
        }
        () if name.contains("thinking") => ("on", "on"),
        () if is_hybrid_kimi(&name) || is_thinking_glm(&name) => ("off on", "on"),
        () if is_hybrid_qwen(&name) && !HOSTED.iter().any(|it| name.contains(it)) => {
            ("off on", "on")
        }
        () => return None,
    })
}

/// True if the model's chat template reads `thinking` instead of `enable_thinking`.
pub fn template_reads_thinking(id: &str) -> bool {
    let name = normalize(id);
    name.contains("granite") || is_hybrid_deepseek(&name) || is_hybrid_kimi(&name)
}

/// True if the model was trained to see the reasoning of a tool loop that is running; without it, the
/// model plans anew after each result.
pub fn wants_reasoning_back(id: &str) -> bool {
    let name = normalize(id);
    let is_thinking_kimi = name.contains("kimi-k2") && name.contains("thinking");
    name.contains("gpt-oss")
        || is_thinking_kimi
        || is_hybrid_kimi(&name)
        || is_thinking_glm(&name)
        || is_at_least(&name, "minimax", "m", (2, 0))
}

fn is_hybrid_deepseek(name: &str) -> bool {
    is_at_least(name, "deepseek", "v", (3, 1))
}

fn is_hybrid_kimi(name: &str) -> bool {
    is_at_least(name, "kimi", "k", (2, 5))
}

fn is_thinking_glm(name: &str) -> bool {
    is_at_least(name, "glm", "", (4, 5))
}

/// Some models of Qwen3 always think, others never.
fn is_hybrid_qwen(name: &str) -> bool {
    const FIXED: [&str; 5] = ["instruct", "thinking", "coder", "embedding", "reranker"];
    const HOSTED: [&str; 3] = ["qwen-plus", "qwen-turbo", "qwen-flash"];
    let is_known =
        is_at_least(name, "qwen", "", (3, 0)) || HOSTED.iter().any(|it| name.contains(it));
    is_known && !FIXED.iter().any(|it| name.contains(it))
}

/// Lower case, with one separator.
fn normalize(id: &str) -> String {
    let separate = |c: char| if matches!(c, '_' | ' ') { '-' } else { c.to_ascii_lowercase() };
    id.chars().map(separate).collect()
}

/// True if a name holds this family's name and a version of at least `least`, which follows `mark`:
/// `deepseek-chat-v3.1` for `deepseek` and `v`.
fn is_at_least(name: &str, family: &str, mark: &str, least: (u32, u32)) -> bool {
    // The name of a family may also be that of its publisher.
    name.match_indices(family).any(|(at, _)| {
        let mut words = name[at + family.len()..].split('/').next().unwrap_or_default();
        loop {
            let word = words.strip_prefix('-').unwrap_or(words);
            if let Some(version) = word.strip_prefix(mark).and_then(parse_version) {
                return version >= least;
            }
            match word.find('-') {
                Some(next) => words = &word[next..],
                None => return false,
            }
        }
    })
}

/// A version at the beginning of a text: `3.1`, `3p1`, or `3-1` before another word. A date or a number
/// of parameters is none.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = split_number(text)?;
    let minor = rest.strip_prefix(['.', 'p']).and_then(split_number).or_else(|| {
        let found = split_number(rest.strip_prefix('-')?)?;
        (found.0 < 10 && (found.1.is_empty() || found.1.starts_with('-'))).then_some(found)
    });
    let (minor, rest) = minor.unwrap_or((0, rest));
    (!rest.starts_with('b')).then_some((major, minor))
}

/// A number of one or two digits, and what follows it.
fn split_number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if !(1..=2).contains(&end) {
        return None;
    }
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_how_its_maker_switches_thinking() {
        let check = |ids: &[&str], expected: Option<ThinkingSwitch>| {
            for id in ids {
                assert_eq!(thinking_switch(id), expected, "{id}");
            }
        };
        let typed = [
            "kimi-k2.5",
            "moonshotai/Kimi-K2.6",
            "accounts/fireworks/models/kimi-k2p5",
            "kimi-k3",
            "deepseek-ai/DeepSeek-V3.1-Terminus",
            "deepseek/deepseek-chat-v3.1",
            "deepseek-v3-1-250821",
            "DeepSeek-V3_1",
            "unsloth/DeepSeek-V3.2-Exp-GGUF:Q4_K_M",
            "deepseek-v4-pro",
            "glm-4.5-air",
            "zai-org/GLM-4.6",
            "glm-4-7-251222",
            "glm-4p5",
            "GLM-4.5V",
            "glm-5",
            "zai.glm-4.7",
            "doubao-seed-1-6-250615",
            "doubao-1-5-thinking-pro",
        ];
        check(&typed, Some(ThinkingSwitch::Type));
        let enabled =
            ["Qwen/Qwen3-8B", "qwen3:8b", "qwen3.5-plus", "qwen-plus-latest", "Qwen3-32B-AWQ"];
        check(&enabled, Some(ThinkingSwitch::EnableThinking));
        check(&["openai/gpt-oss-20b", "gpt-oss:120b"], Some(ThinkingSwitch::Effort));
        let others = [
            "m",
            "",
            "gpt-4o",
            "kimi-k2-0905-preview",
            "kimi-k2-thinking",
            "moonshot-v1-8k",
            "deepseek-v3-0324",
            "deepseek-ai/DeepSeek-R1",
            "deepseek-coder-v2",
            "deepseek-r1-distill-qwen-32b",
            "glm-4-9b-chat",
            "glm-4-32b-0414",
            "glm-4-flash",
            "chatglm3-6b",
            "glm-130b",
            "glm-10b",
            "glm-4.1v-9b-thinking",
            "glm-edge-1.5b-chat",
            "qwen2.5-72b-instruct",
            "qwen3-coder-480b",
            "Qwen3-235B-A22B-Thinking-2507",
            "Qwen3-Next-80B-A3B-Instruct",
            "qwen3-embedding-0.6b",
            "MiniMax-M2",
            "doubao-pro-32k",
        ];
        check(&others, None);
    }

    #[test]
    fn templates_that_read_thinking_are_known() {
        for id in ["deepseek-ai/DeepSeek-V3.1", "moonshotai/Kimi-K2.5", "granite-3.3-8b"] {
            assert!(template_reads_thinking(id), "{id}");
        }
        for id in ["m", "deepseek-r1", "Qwen/Qwen3-8B", "glm-4.6", "gpt-oss-20b"] {
            assert!(!template_reads_thinking(id), "{id}");
        }
    }

    #[test]
    fn models_that_want_their_reasoning_back_are_known() {
        let those = [
            "openai/gpt-oss-120b",
            "MiniMaxAI/MiniMax-M2",
            "minimax/minimax-m2.1",
            "minimax-m3",
            "moonshotai/Kimi-K2-Thinking",
            "kimi-k2-thinking-turbo",
            "kimi-k2.5",
            "zai-org/GLM-4.5-Air",
            "z-ai/glm-4.7",
            "glm-5",
        ];
        for id in those {
            assert!(wants_reasoning_back(id), "{id}");
        }
        let others = [
            "m",
            "gpt-4o",
            "minimax-m1-80k",
            "MiniMax-Text-01",
            "kimi-k2-0905",
            "glm-4-9b",
            "qwen3:8b",
        ];
        for id in others {
            assert!(!wants_reasoning_back(id), "{id}");
        }
    }
}
