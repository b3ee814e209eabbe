//! The crate ollama-rs against the proxy, with the scripted upstream behind it.
//!
//! PROXY_URL and UPSTREAM_URL say where they are; run.py sets both. Prints one line for each check
//! and a last line `N passed, N failed`. It parses network chunks, not lines, and reads its types
//! strictly, so it is here for the framing as much as for the fields.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ollama_rs::Ollama;
use ollama_rs::coordinator::Coordinator;
use ollama_rs::generation::chat::request::ChatMessageRequest;
use ollama_rs::generation::chat::{ChatMessage, ChatMessageResponse};
use ollama_rs::generation::completion::request::GenerationRequest;
use ollama_rs::generation::embeddings::request::GenerateEmbeddingsRequest;
use ollama_rs::generation::images::Image;
use ollama_rs::generation::parameters::{FormatType, JsonStructure, KeepAlive, ThinkType};
use ollama_rs::models::ModelOptions;
use serde_json::Value;
use tokio_stream::StreamExt;

const MODEL: &str = "scripted-1";
const HANG: Duration = Duration::from_secs(60); // Only ends a check that hangs.
const STYLES: &[&str] = &["", ":whole", ":noindex", ":object", ":mixed"];
const PNG: &str = "iVBORw0KGgoAAAANSUhEUg==";

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome = Result<(), Failure>;
type Check = fn(Ollama) -> Pin<Box<dyn Future<Output = Outcome>>>;

/// Fails the check with both values unless they are equal.
macro_rules! same {
    ($left:expr, $right:expr) => {{
        let (left, right) = (&$left, &$right);
        if left != right {
            return Err(format!("line {}: {left:?} is not {right:?}", line!()).into());
        }
    }};
}

/// The table of the checks, by their names.
macro_rules! checks {
    ($($name:ident)*) => {
        &[$((stringify!($name), |client| Box::pin($name(client)))),*]
    };
}

const CHECKS: &[(&str, Check)] = checks! {
    list_and_show_have_every_field
    chat_whole_with_all_counters
    chat_stream_joins
    generate_whole_and_streamed
    history_is_kept
    options_reach_the_upstream
    a_schema_gives_its_object
    embeddings_of_many
    errors_are_told
    a_coordinator_calls_its_tools
    thinking_is_told_apart
    an_image_is_sent_with_its_type
    logprobs_are_read
    create_copy_and_delete
    pull_succeeds
    every_request_obeyed_the_rules_of_the_upstream
};

/// A chat request with one user message.
fn asking(text: &str) -> ChatMessageRequest {
    ChatMessageRequest::new(MODEL.to_owned(), vec![ChatMessage::user(text.to_owned())])
}

/// The answer to one message.
async fn say(client: &Ollama, text: &str) -> Result<ChatMessageResponse, Failure> {
    Ok(client.send_chat_messages(asking(text)).await?)
}

async fn list_and_show_have_every_field(client: Ollama) -> Outcome {
    let models = client.list_local_models().await?;
    let mut names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    names.sort_unstable();
    same!(names, ["scripted-1:latest", "scripted-embed:latest", "team/other:8b"]);
    for name in names {
        let shown = client.show_model_info(name.to_owned()).await?;
        same!(shown.capabilities.is_empty(), false);
        same!(shown.model_info.contains_key("general.architecture"), true);
    }
    Ok(())
}

async fn chat_whole_with_all_counters(client: Ollama) -> Outcome {
    let answer = say(&client, "Hello there").await?;
    same!(answer.message.content, "You said: Hello there");
    // One counter that is missing loses all of them.
    let counters = answer.final_data.ok_or("no counters")?;
    same!((counters.prompt_eval_count, counters.eval_count), (2, 4));
    same!(counters.eval_duration > 0 && counters.load_duration > 0, true);
    Ok(())
}

async fn chat_stream_joins(client: Ollama) -> Outcome {
    let mut stream = client.send_chat_messages_stream(asking("echo: one two three")).await?;
    let (mut text, mut lines, mut done) = (String::new(), 0, false);
    while let Some(line) = stream.next().await {
        let line = line.map_err(|()| "a line that could not be read")?;
        text += &line.message.content;
        lines += 1;
        done = line.done;
        same!(line.final_data.is_some(), done);
    }
    same!((text.as_str(), lines, done), ("one two three", 4, true));
    Ok(())
}

async fn generate_whole_and_streamed(client: Ollama) -> Outcome {
    let request = GenerationRequest::new(MODEL.to_owned(), "Hello").system("Be brief.");
    let answer = client.generate(request).await?;
    same!(answer.response, "You said: Hello");
    same!(answer.context.is_some_and(|context| !context.0.is_empty()), true);
    let request = GenerationRequest::new(MODEL.to_owned(), "slow 20 w");
    let mut stream = client.generate_stream(request).await?;
    let mut text = String::new();
    while let Some(lines) = stream.next().await {
        for line in lines? {
            text += &line.response;
        }
    }
    let words: Vec<String> = (0..20).map(|number| format!("w{number}")).collect();
    same!(text, words.join(" "));
    Ok(())
}

async fn history_is_kept(client: Ollama) -> Outcome {
    let mut history = vec![ChatMessage::system("Be brief.".to_owned())];
    client.send_chat_messages_with_history(&mut history, asking("echo: one")).await?;
    let answer = client.send_chat_messages_with_history(&mut history, asking("messages?")).await?;
    let seen: Value = serde_json::from_str(&answer.message.content)?;
    let expected = serde_json::json!([
        ["system", "Be brief."],
        ["user", "echo: one"],
        ["assistant", "one"],
        ["user", "messages?"]
    ]);
    same!(seen, expected);
    Ok(())
}

async fn options_reach_the_upstream(client: Ollama) -> Outcome {
    let options = ModelOptions::default().temperature(0.0).seed(0).num_ctx(4096);
    let keep = KeepAlive::Indefinitely;
    let request = asking("params?").options(options).keep_alive(keep);
    let answer = client.send_chat_messages(request).await?;
    let sent: Value = serde_json::from_str(&answer.message.content)?;
    same!(sent, serde_json::json!({"temperature": 0.0, "seed": 0}));
    Ok(())
}

#[derive(schemars::JsonSchema, serde::Deserialize)]
struct Person {
    name: String,
    age: u32,
}

async fn a_schema_gives_its_object(client: Ollama) -> Outcome {
    let format = FormatType::StructuredJson(Box::new(JsonStructure::new::<Person>()));
    let answer = client.send_chat_messages(asking("Who?").format(format)).await?;
    let person: Person = serde_json::from_str(&answer.message.content)?;
    same!((person.name.as_str(), person.age), ("text", 7));
    Ok(())
}

async fn embeddings_of_many(client: Ollama) -> Outcome {
    let request = GenerateEmbeddingsRequest::new("scripted-embed".into(), vec!["a", "b"].into());
    let answer = client.generate_embeddings(request).await?;
    let lengths: Vec<usize> = answer.embeddings.iter().map(Vec::len).collect();
    same!(lengths, [8, 8]);
    Ok(())
}

async fn errors_are_told(client: Ollama) -> Outcome {
    for (text, expected) in [
        ("error 429", r#"{"error":"Rate limit reached for scripted-1."}"#),
        ("error 400", r#"{"error":"The request was refused on purpose."}"#),
    ] {
        let error = say(&client, text).await.err().ok_or("no error")?;
        same!(error.to_string(), expected);
    }
    Ok(())
}

/// Add two numbers.
///
/// * a - The first.
/// * b - The second.
#[ollama_rs::function]
async fn add(a: i64, b: i64) -> Result<String, Failure> {
    Ok((a + b).to_string())
}

async fn a_coordinator_calls_its_tools(client: Ollama) -> Outcome {
    for style in STYLES {
        let mut talk = Coordinator::new(client.clone(), MODEL.to_owned(), vec![]).add_tool(add);
        let message = ChatMessage::user(format!("calls{style} 3"));
        let answer = talk.chat(vec![message]).await?;
        // It sends no ids: results belong to the calls in their order.
        let parts = answer.message.content.split("; ");
        let values: Vec<&str> = parts.filter_map(|part| part.rsplit(' ').next()).collect();
        same!(values, ["0", "2", "4"]);
    }
    Ok(())
}

async fn thinking_is_told_apart(client: Ollama) -> Outcome {
    for style in ["", ":short", ":inline"] {
        for think in [ThinkType::True, ThinkType::Low] {
            let request = asking(&format!("think{style} forty two")).think(think);
            let message = client.send_chat_messages(request).await?.message;
            same!(message.content, "forty two");
            let thought = message.thinking.unwrap_or_default();
            same!(thought.trim(), "Let me think about it.");
        }
        let request = asking(&format!("think{style} forty two")).think(ThinkType::False);
        let message = client.send_chat_messages(request).await?.message;
        same!((message.content.as_str(), message.thinking), ("forty two", None));
    }
    Ok(())
}

async fn an_image_is_sent_with_its_type(client: Ollama) -> Outcome {
    let message = ChatMessage::user("images?".to_owned()).add_image(Image::from_base64(PNG));
    let request = ChatMessageRequest::new(MODEL.to_owned(), vec![message]);
    let answer = client.send_chat_messages(request).await?;
    same!(answer.message.content, r#"["image/png"]"#);
    Ok(())
}

async fn logprobs_are_read(client: Ollama) -> Outcome {
    let request = GenerationRequest::new(MODEL.to_owned(), "echo: one two");
    let answer = client.generate(request.logprobs(true).top_logprobs(2)).await?;
    let items = answer.logprobs.unwrap_or_default();
    let tokens: Vec<&str> = items.iter().map(|item| item.token.as_str()).collect();
    same!(tokens, ["one", " two"]);
    same!(items[0].bytes, [111, 110, 101]);
    Ok(())
}

async fn create_copy_and_delete(client: Ollama) -> Outcome {
    use ollama_rs::models::create::CreateModelRequest;
    let request = CreateModelRequest::new("toad".to_owned()).from_model(MODEL.to_owned());
    let status = client.create_model(request.system("You are Toad.".to_owned())).await?;
    same!(status.message, "success");
    client.copy_model("toad".to_owned(), "toadette".to_owned()).await?;
    let request = GenerationRequest::new("toadette".to_owned(), "system?");
    same!(client.generate(request).await?.response, "You are Toad.");
    for name in ["toad", "toadette"] {
        client.delete_model(name.to_owned()).await?;
        same!(client.show_model_info(name.to_owned()).await.is_err(), true);
    }
    Ok(())
}

async fn pull_succeeds(client: Ollama) -> Outcome {
    same!(client.pull_model(MODEL.to_owned(), false).await?.message, "success");
    Ok(())
}

async fn every_request_obeyed_the_rules_of_the_upstream(_: Ollama) -> Outcome {
    let wanted = ["on purpose", "Rate limit"];
    let journal = ollama_journal("GET")?;
    let entries: Vec<Value> = serde_json::from_str(&journal)?;
    let refusals = entries.iter().filter_map(|entry| entry["refusal"].as_str());
    let odd: Vec<&str> =
        refusals.filter(|text| !wanted.iter().any(|part| text.contains(part))).collect();
    same!(odd, Vec::<&str>::new());
    Ok(())
}

/// Reads or empties the journal of the scripted upstream.
fn ollama_journal(method: &str) -> Result<String, Failure> {
    use std::io::{Read, Write};
    let address = setting("UPSTREAM_URL").replace("http://", "");
    let mut stream = std::net::TcpStream::connect(&address)?;
    let head = "HTTP/1.1\r\nHost: upstream\r\nConnection: close\r\n\r\n";
    write!(stream, "{method} /_requests {head}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").ok_or("no answer")?.1.to_owned())
}

/// An environment variable that must be there.
fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run.py sets it"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let client = Ollama::try_new(setting("PROXY_URL")).expect("a URL");
    // What another test program did is not ours to judge.
    ollama_journal("DELETE").expect("the upstream answers");
    let mut passed = 0;
    for (name, check) in CHECKS {
        let outcome = match tokio::time::timeout(HANG, check(client.clone())).await {
            Ok(outcome) => outcome,
            Err(_) => Err("it hangs".into()),
        };
        let name = name.replace('_', " ");
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("PASS {name}");
            }
            Err(error) => println!("FAIL {name}: {error}"),
        }
    }
    println!("{passed} passed, {} failed", CHECKS.len() - passed);
    std::process::exit(i32::from(passed != CHECKS.len()));
}
