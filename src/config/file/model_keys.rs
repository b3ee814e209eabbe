//! The section `[[model]]`: its table of keys, and the models that it defines.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::node::{Item, Member, Node};
use super::scope::{KeySpec, Scope, show_name};
use super::upstream_keys::{sections, table};
use crate::backends::names;
use crate::config::nearest::suggest;
use crate::config::upstream_values;
use crate::models::configured::{ConfiguredModel, Strategy, Target};
use crate::models::virtual_model::{self, VirtualModel};
use crate::translate::template;

/// The section's name in messages.
const SECTION: &str = "[[model]]";

/// Largest context length: every client can hold 31 bits.
const MAX_TOKENS: u64 = i32::MAX as u64;

/// What a model can do, in Ollama's words (types/model/capability.go).
const CAPABILITIES: &[&str] =
    &["completion", "tools", "insert", "vision", "embedding", "thinking", "image", "audio"];

/// A model while its section is read.
#[derive(Default)]
pub struct ModelDraft {
    model: VirtualModel,
    /// Each with its line, and whether a variable stands in it.
    targets: Vec<(usize, bool, Target)>,
    strategy: Strategy,
    context_length: Option<u64>,
    capabilities: Option<Vec<String>>,
    is_hidden: bool,
}

/// Every key of a model.
pub const MODEL_KEYS: &[KeySpec<ModelDraft>] = &[
    KeySpec {
        key: "name",
        example: "\"llama3.2\"",
        help: "what clients see and ask for; needed",
        is_needed: true,
        apply: |draft, member, scope| {
            let parse = |text: &str| {
                let name = text.trim();
                let is_valid = upstream_values::is_model_name(name);
                is_valid.then(|| name.to_owned()).ok_or("expected the name of a model".to_owned())
            };
            scope.set_text(&mut draft.model.name, member, parse);
        },
    },
    KeySpec {
        key: "use",
        example: "[\"lab/qwen3-32b\", \"openai/gpt-4o-mini\"]",
        help: "in order; needed",
        is_needed: true,
        apply: apply_use,
    },
    KeySpec {
        key: "strategy",
        example: "\"order\"",
        help: "or \"least-busy\", \"sticky\"",
        is_needed: false,
        apply: |draft, member, scope| {
            scope.set_text(&mut draft.strategy, member, parse_strategy);
        },
    },
    KeySpec {
        key: "system",
        example: "\"You are brief.\"",
        help: "unless the request has its own",
        is_needed: false,
        apply: |draft, member, scope| {
            scope.set_text(&mut draft.model.system, member, |text| Ok(text.to_owned()));
        },
    },
    KeySpec {
        key: "parameters",
        example: "{ temperature = 0.5 }",
        help: "as in a Modelfile",
        is_needed: false,
        apply: apply_parameters,
    },
    KeySpec {
        key: "template",
        example: "\"{{ .Prompt }}\"",
        help: "shown, but not used",
        is_needed: false,
        apply: |draft, member, scope| {
            // The reason may quote the template, which is no secret unless a variable stands in it.
            let is_shown = member.node.variables.is_empty();
            let tell = |why| if is_shown { why } else { "not a valid template".to_owned() };
            let check = |text: &str| template::check(text).map(|()| text.to_owned()).map_err(tell);
            scope.set_text(&mut draft.model.template, member, check);
        },
    },
    KeySpec {
        key: "messages",
        example: "[{ role = \"user\", content = \"Hi\" }]",
        help: "before each conversation",
        is_needed: false,
        apply: apply_messages,
    },
    KeySpec {
        key: "license",
        example: "\"MIT\"",
        help: "shown",
        is_needed: false,
        apply: |draft, member, scope| match &member.node.item {
            Item::List(_) => {
                let texts = scope.texts(member).unwrap_or_default();
                draft.model.license = texts.into_iter().map(|(_, text)| text.to_owned()).collect();
            }
            _ => draft.model.license = scope.text(member).map(str::to_owned).into_iter().collect(),
        },
    },
    KeySpec {
        key: "context_length",
        example: "32768",
        help: "shown instead of the upstream's",
        is_needed: false,
        apply: |draft, member, scope| {
            draft.context_length = scope.integer(member, 1..=MAX_TOKENS);
        },
    },
    KeySpec {
        key: "capabilities",
        example: "[\"completion\", \"tools\"]",
        help: "likewise",
        is_needed: false,
        apply: apply_capabilities,
    },
    KeySpec {
        key: "hidden",
        example: "false",
        help: "true: answers, but is in no list",
        is_needed: false,
        apply: |draft, member, scope| {
            let value = scope.boolean(member).map(Ok);
            scope.set(&mut draft.is_hidden, member, value);
        },
    },
];

/// The models of the file, of which each has a name of its own. The names of the upstreams may be unknown.
pub fn read_all(
    member: &Member,
    upstreams: Option<&[String]>,
    changed: SystemTime,
    scope: &mut Scope<'_>,
) -> Vec<ConfiguredModel> {
    let mut models: Vec<ConfiguredModel> = Vec::new();
    let mut keys: Vec<(String, usize)> = Vec::new();
    for node in sections(member, SECTION, scope) {
        let Some(draft) = read(node, upstreams, scope) else { continue };
        let key = names::canonical_key(&draft.model.name);
        match keys.iter().find(|(known, _)| *known == key) {
            Some((_, line)) => {
                let problem = format!("the name is taken by the model in line {line}");
                scope.problems.add(node.line, &problem);
            }
            None => keys.push((key, node.line)),
        }
        models.extend(draft.finish(changed));
    }
    models
}

/// One model; `None` without a name.
fn read(node: &Node, upstreams: Option<&[String]>, scope: &mut Scope<'_>) -> Option<ModelDraft> {
    let members = table(node, SECTION, scope)?;
    let mut draft = ModelDraft::default();
    scope.read_section((SECTION, MODEL_KEYS), &mut draft, (node.line, members));
    for (line, has_variable, target) in &draft.targets {
        let upstream = target.upstream.as_deref().unwrap_or_default();
        if upstreams.is_some_and(|known| !known.iter().any(|known| known == upstream)) {
            let upstreams = upstreams.unwrap_or_default();
            let known = upstreams.iter().map(String::as_str);
            let hint = suggest(upstream, known.clone()).unwrap_or_else(|| {
                format!("known upstreams are {}", known.collect::<Vec<_>>().join(", "))
            });
            let shown =
                if *has_variable { String::new() } else { format!(" {}", show_name(upstream)) };
            scope.problems.add(*line, &format!("use: unknown upstream{shown}: {hint}"));
        }
    }
    (!draft.model.name.is_empty()).then_some(draft)
}

impl ModelDraft {
    /// The model; `None` without a target.
    fn finish(self, changed: SystemTime) -> Option<ConfiguredModel> {
        let targets: Vec<_> = self.targets.into_iter().map(|(_, _, target)| target).collect();
        let first = targets.first()?;
        let from = format!("{}/{}", first.upstream.as_deref().unwrap_or_default(), first.id);
        let VirtualModel { name, from, modified_at, .. } =
            VirtualModel::alias(&self.model.name, &from, changed);
        let model = Arc::new(VirtualModel { name, from, modified_at, ..self.model });
        Some(ConfiguredModel {
            model,
            targets,
            strategy: self.strategy,
            context_length: self.context_length,
            capabilities: self.capabilities,
            is_hidden: self.is_hidden,
        })
    }
}

fn apply_use(draft: &mut ModelDraft, member: &Member, scope: &mut Scope<'_>) {
    for (node, text) in scope.texts(member).unwrap_or_default() {
        let (upstream, id) = text.split_once('/').unwrap_or_default();
        if upstream.is_empty() || !upstream_values::is_id(id) {
            scope.refuse_item(member, node, "expected UPSTREAM/MODEL, such as lab/qwen3-32b");
            continue;
        }
        let target = Target { upstream: Some(upstream.to_owned()), id: id.to_owned() };
        if draft.targets.iter().any(|(_, _, known)| *known == target) {
            scope.refuse_item(member, node, "the same model twice");
        }
        draft.targets.push((node.line, !node.variables.is_empty(), target));
    }
}

fn parse_strategy(text: &str) -> Result<Strategy, String> {
    let known = Strategy::ALL.map(Strategy::name);
    let found = Strategy::ALL.into_iter().find(|strategy| strategy.name() == text);
    found.ok_or_else(|| format!("expected one of {}{}", known.join(", "), hint(text, &known)))
}

/// The nearest of some words, behind a message.
fn hint(text: &str, known: &[&str]) -> String {
    suggest(text, known.iter().copied()).map(|near| format!("; {near}")).unwrap_or_default()
}

fn apply_parameters(draft: &mut ModelDraft, member: &Member, scope: &mut Scope<'_>) {
    for parameter in scope.table(member).unwrap_or_default() {
        let Some(value) = scope.json(member, &parameter.node) else { continue };
        let one = Map::from_iter([(parameter.key.clone(), value)]);
        match virtual_model::parse_parameters(Some(&one)) {
            Ok(one) => draft.model.parameters.extend(one),
            Err(error) => scope.refuse_item(member, &parameter.node, &error.message()),
        }
    }
}

fn apply_messages(draft: &mut ModelDraft, member: &Member, scope: &mut Scope<'_>) {
    for node in scope.list(member).unwrap_or_default() {
        let Some(value) = scope.json(member, node) else { continue };
        let is_message = value.get("role").is_some_and(Value::is_string);
        let stored: Option<Box<RawValue>> =
            is_message.then(|| virtual_model::normalize_message(&value.to_string()).ok()).flatten();
        match stored {
            Some(message) => draft.model.messages.push(message),
            None => scope.refuse_item(member, node, "expected a message, with role and content"),
        }
    }
}

fn apply_capabilities(draft: &mut ModelDraft, member: &Member, scope: &mut Scope<'_>) {
    let mut words = Vec::new();
    for (node, word) in scope.texts(member).unwrap_or_default() {
        if CAPABILITIES.contains(&word) {
            words.push(word.to_owned());
        } else {
            let near = hint(word, CAPABILITIES);
            let why = format!("expected one of {}{near}", CAPABILITIES.join(", "));
            scope.refuse_item(member, node, &why);
        }
    }
    draft.capabilities = Some(words);
}
