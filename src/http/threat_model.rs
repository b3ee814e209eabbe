//! Who can reach what, what each can cost, what bounds it, and which test shows it. No code.
//!
//! `house/threats.rs` checks that each name in the last two columns is there: constants and options in
//! the sources, scenarios of `scripts/fault` by their names, tests as `file::test`.
//!
//! # Who
//!
//! - **A client without a key**, where keys are configured, reaches `GET` and `HEAD` of `/`,
//!   `/health` and the files of the status page, and preflights. Everything else is 401 before a byte of its body is read. The thread that
//!   receives decides that: what costs there costs everybody. It takes no worker and writes no response.
//! - **A client with a key**, and each client where there are none, asks the upstream with the
//!   operator's key, reads, makes and deletes virtual models, which all clients share, and sees its
//!   own kept responses only. Keys have the same rights, but for those with names, which may have limits and
//!   a list of models ([`crate::http::named_keys`]).
//! - **A web page** in the browser of a user of this machine reaches loopback with that user's rights.
//!   Unless its origin is allowed, it reads nothing and asks nothing: only a `GET` that browsers send without
//!   `Origin`, as for images, is served, and costs at most a new list of models. On another address than
//!   loopback any `Host` is served, so keys are what keeps pages out.
//! - **Another process of the machine** is a client. As the same user it also reads the environment of
//!   this process, its key files, its state file (mode 600) and its memory; nothing here can help. As
//!   another user it sees the command line, so keys do not belong there.
//! - **Somebody on the network** between client and proxy, or between proxy and an `http://` upstream,
//!   reads and changes everything: there is no TLS for clients here, a reverse proxy has it.
//!   `https://` upstreams are verified unless `UPSTREAM_TLS_VERIFY` is off.
//! - **An upstream** is trusted with the prompts and the key that it gets, and with the words of its
//!   answers. It is not trusted with memory, time, threads, log lines, or another upstream's key.
//! - **The operator** is trusted. Mistakes in the configuration stop the start and leave a reload
//!   without effect.
//!
//! # What a client can cost
//!
//! | attempt | costs | bounded by | shown by |
//! | --- | --- | --- | --- |
//! | many connections | 96 KiB, a thread and 2 descriptors each | `MAX_CONNECTIONS`, the oldest idle ones go | `idle-10k-limited`, `connection-limit`, `emfile`, `pids-max` |
//! | slow or endless heads | a connection for 10 s, 64 KiB | [`Limits`](crate::net::connection_guard::Limits) | `slow-loris`, `header-flood` |
//! | bodies that stall | a connection; no worker | 1 KiB/s after 10 s, `REQUEST_TIMEOUT` | `stalled-uploads` |
//! | lengths that are only claimed | a connection for some seconds; no memory | [`crate::http::unread_body`] | `claims`, `claims-many`, `claims-broken-off` |
//! | large bodies, and large answers asked for | memory | `MAX_BODY_BYTES`, the budget of [`crate::net`] | `body-flood`, `memory-limit`, `memory-uploads`, `memory-short`, `guard::bodies_that_are_held_have_a_common_bound`, `memory::what_large_requests_and_answers_hold_is_returned_on_every_route` |
//! | wrong keys, long or many | 2 µs of the thread that receives, a line in the log | `MAX_KEY_LEN`, `MAX_ADDRESSES` | `wrong-keys`, `keys::an_address_that_sends_wrong_keys_is_told_to_wait_and_a_right_key_is_served_all_the_same` |
//! | requests behind a running response, or without reading any | a thread for refusals | `REFUSAL_WORKERS`, `MIN_REFUSALS` | `overload::a_request_behind_a_running_response_delays_nobody_else` |
//! | bodies that unfold | memory, CPU | `MAX_DECOMPRESSED_BYTES`, `MAX_WINDOW_BYTES`, the budget | `decompress::a_body_that_unfolds_without_end_is_refused`, `memory::a_request_whose_parts_never_fit_is_too_large_whatever_its_length` |
//! | all workers | others wait, then 503 | `OLLAMA_MAX_QUEUE`, `MAX_PER_CLIENT` | `burst-overload`, `fair-share`, `health-when-busy` |
//! | answers that nobody reads | a worker for 30 s | [`crate::net::connection_guard`] | `disconnect::a_client_that_stops_reading_does_not_stop_the_others` |
//! | leaving | the upstream's work until then, a second at most | the guard | `client-gone` |
//! | resets before the request is read | a connection | a counter, `connections_reset` | `resets` |
//! | coming into the quiet | what has arrived until the guard wakes | [`crate::net::connection_guard`] | `quiet-flood`, `quiet-slow-head` |
//! | bursts | threads and memory for a while | idle threads end | `thousand-streams-once`, `burst-500`, `idle-cost` |
//! | requests of HTTP/2 | its connection; a thread for good only if it begins in the segment that ends the chunks of the request before, and is cut there | a defect of tiny_http 0.12 | `claims::a_request_of_http_2_ends_its_connection_and_costs_no_thread` |
//! | ambiguous framing | its connection | [`crate::http::framing`] | `framing-bad` |
//! | deep or odd JSON | CPU for its own length | `MAX_BODY_BYTES`; parsers without recursion on its depth | `fuzz_replay::chat`, `fuzz_replay::responses_items` |
//! | the upstream's money | what the key allows | `max_parallel`, `MAX_PER_CLIENT`, `MAX_TOKENS_PER_DAY` at most for a key with a name; quotas are the upstream's | `strategies::a_full_upstream_is_passed_over_and_if_all_are_full_requests_wait_their_turn` |
//! | links in the state file's folder, by another user | what may be written there | random names, created new, for the owner only | `state::a_process_that_was_killed_leaves_nothing_that_hinders_the_next_one` |
//! | looking at the status page, and names that are long or many | 1 MiB, a list of models a minute | `MAX_BYTES`, `MAX_LIST_AGE` | `parts::looking_asks_an_upstream_for_its_list_once_and_for_nothing_else`, `secrecy::hostile_names_are_cut_and_do_not_break_the_object` |
//! | virtual models | 64 MiB, and the state file | `MAX_KEPT_BYTES` | `store::number_and_size_are_bounded` |
//!
//! # What a web page can do
//!
//! | attempt | costs | bounded by | shown by |
//! | --- | --- | --- | --- |
//! | a request from a foreign origin | 403, its body unread | `OLLAMA_ORIGINS` | `cors::a_foreign_origin_is_refused_whatever_it_asks_for` |
//! | a name that points to loopback (DNS rebinding) | 403 | the check of `Host` | `host::on_loopback_only_near_hosts_are_served` |
//! | what the status page shows | 403 for each foreign origin, whatever is allowed elsewhere | [`crate::http::same_origin`] | `page::pages_of_other_origins_get_nothing_whatever_is_allowed_elsewhere` |
//! | reading a key or an answer of others | nothing | CORS headers for allowed origins only | `cors::every_answer_to_an_allowed_origin_says_so` |
//!
//! # What is told
//!
//! | secret | who could read it | kept by | shown by |
//! | --- | --- | --- | --- |
//! | the upstream's key | clients, other upstreams, readers of the log | [`crate::observe::redact`] | `output::keys_prompts_and_answers_are_nowhere_in_the_log` |
//! | a client's key | the upstream, readers of the log | [`crate::http::client_keys`] | `keys::the_client_s_key_never_goes_upstream`, `scripts/soak` |
//! | what virtual models say | other users of the machine | the mode 600 of the state file | `state::only_the_owner_may_read_what_is_written` |
//! | prompts, answers and keys | who looks at the status page | [`crate::observe::board`] | `secrecy::prompts_answers_and_keys_are_nowhere` |
//! | prompts and answers | readers of the log | `LOG_BODIES` | `output::bodies_are_logged_at_no_other_level_than_trace` |
//! | a key in a configuration that is wrong | readers of the log | [`crate::config`] | `start::no_mistake_in_a_configuration_file_gives_a_key_away`, `fuzz_replay::config_file` |
//!
//! # What an upstream can cost
//!
//! | attempt | costs | bounded by | shown by |
//! | --- | --- | --- | --- |
//! | silence, half a head, no connection | a worker until then | `REQUEST_TIMEOUT`, [`crate::upstream::breaker`] | `upstream-faults`, `upstream-black-hole`, `circuit` |
//! | answers without end | memory | `MAX_RESPONSE_BYTES`, `MAX_EVENT_BYTES`, `MAX_INCOMPLETE_BYTES` | `faults::a_whole_body_that_does_not_end`, `hostile::comments_and_chunk_extensions_without_end_keep_no_memory` |
//! | long delays asked for | half of the workers for that long | `MAX_SERVER_DELAY`, `MAX_TOTAL_WAIT` | `waits::an_upstream_that_says_120_to_everybody_parks_half_of_the_workers_and_others_are_served` |
//! | endless refusals | attempts | `MAX_ATTEMPTS`, `RETRY_MAX` | `plainest::nothing_that_an_upstream_says_costs_more_than_six_attempts`, `fuzz_replay::repair` |
//! | breaking off | the rest of that answer, never a wrong one | ends that no client takes for complete | `upstream-cuts`, `upstream-chaos`, `scripts/soak` |
//! | large, deep or ever new lists, errors, heads and ids | memory, series, log lines | `MAX_ERROR_BYTES`, `MAX_TREE_BYTES`, `MAX_MODELS`, `MAX_SERIES`, `MAX_LINE_BYTES` | `hostile::bodies_of_errors_are_read_to_a_limit`, `hostile::lists_of_models_are_bounded_in_bytes_entries_depth_and_ids`, `hostile::names_in_answers_that_change_each_time_grow_nothing` |
