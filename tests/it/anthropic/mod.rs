//! Anthropic's protocol, `/v1/messages`.

mod messages;
