//! Images and audio: large ones, and the encodings that clients use.

use crate::support::*;

const PNG: &str = "iVBORw0KGgoAAAANSUhEUg==";

/// The upstream's content part for an image.
fn sent(route: &str, image: Value) -> Value {
    let (upstream, proxy) = pair();
    upstream.script(vec![upstream::answer("ok")]);
    let body = match route {
        "/api/chat" => json!({"model": "m", "stream": false,
            "messages": [{"role": "user", "content": "What is it?", "images": [image]}]}),
        _ => json!({"model": "m", "stream": false, "prompt": "What is it?", "images": [image]}),
    };
    let answer = proxy.post(route, &body);
    assert_eq!(answer.status(), 200, "{}", answer.body);
    let mut request = upstream.request().json();
    let content = request["messages"][0]["content"].take();
    assert_eq!(content[0], json!({"type": "text", "text": "What is it?"}));
    content[1].clone()
}

#[test]
fn an_image_of_20_megabytes_arrives_whole() {
    const SIZE: usize = 20 * 1024 * 1024;
    // The signature of PNG and then zeros.
    let image = format!("iVBORw0KGgoA{}", "A".repeat(SIZE / 3 * 4));
    for route in ["/api/chat", "/api/generate"] {
        let part = sent(route, image.as_str().into());
        let url = part["image_url"]["url"].as_str().expect("a URL");
        assert!(url.strip_prefix("data:image/png;base64,") == Some(&image), "{route}");
    }
}

#[test]
fn every_form_of_an_image_becomes_a_part() {
    let png =
        json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}});
    for route in ["/api/chat", "/api/generate"] {
        for image in [
            json!("iVBORw0KGgo="),
            json!("iVBORw0K\nGgo"),
            json!("data:image/jpeg;base64,iVBORw0KGgo="),
            json!(b"\x89PNG\r\n\x1a\n"),
        ] {
            assert_eq!(sent(route, image.clone()), png, "{route} {image}");
        }
        let url = sent(route, json!("/9j/4AAQSkZJRgAB"))["image_url"]["url"].clone();
        assert!(url.as_str().is_some_and(|it| it.starts_with("data:image/jpeg;base64,")), "{url}");
        let sound =
            json!({"type": "input_audio", "input_audio": {"data": "SUQzAw==", "format": "mp3"}});
        assert_eq!(sent(route, json!("SUQzAw")), sound, "{route}");
    }
}

#[test]
fn broken_base64_is_refused_and_a_data_url_is_taken() {
    let bench = Bench::new();
    let message = |image: &str| json!({"messages": [{"role": "user", "images": [image]}]});
    for broken in ["!!!!", "iVBOR*", "data:image/png;base64,???"] {
        let answer = bench.ask(CHAT, &message(broken));
        assert_eq!(answer.status(), 400, "{broken}");
        assert!(answer.error().contains("illegal base64 data"), "{}", answer.body);
    }
    assert!(bench.upstream.is_idle());
    let url = format!("data:image/png;base64,{PNG}");
    let sent = bench.sent(CHAT, &message(&url));
    assert_eq!(sent["messages"][0]["content"][0]["image_url"]["url"], url);
}
