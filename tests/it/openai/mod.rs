//! OpenAI's routes below `/v1`: passed on, and translated where the upstream lacks them.

mod bad_input;
mod custom_tools;
mod errors;
mod models;
mod other_routes;
mod pass_through;
mod responses;
mod responses_compaction;
mod responses_items;
mod responses_output;
mod responses_state;
mod responses_tools;
mod uploads;
