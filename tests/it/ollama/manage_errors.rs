//! Errors of the routes that manage models, one row each.

use crate::support::*;

/// Rows of method, path, body, status and text, separated by two blanks. A refused file is reported before
/// other faults.
const MANAGEMENT: &str = r#"
POST  /api/pull    400  missing request body
POST  /api/pull  {}  400  invalid model name
POST  /api/pull  {"model":"m:"}  400  invalid model name
POST  /api/pull  {"model":"nope","stream":false}  500  pull model manifest: file does not exist
POST  /api/push    400  missing request body
POST  /api/push  {}  400  model is required
POST  /api/create    400  missing request body
POST  /api/create  {"model":"m:"}  400  invalid model name
POST  /api/create  {"model":"new","from":"m","files":{"a":5}}  400  json: cannot unmarshal number into Go struct field CreateRequest.files of type string
POST  /api/create  {"model":"new"}  400  neither 'from' or 'files' was specified
POST  /api/create  {"model":"new","from":"m","template":"{{ .Prompt }"}  400  template error: template: :1: unexpected "}" in operand
POST  /api/create  {"model":"new","from":"m","template":"{{","files":{"/a":"sha256:0"}}  400  file path must be relative
POST  /api/create  {"model":"new","template":"{{"}  400  neither 'from' or 'files' was specified
POST  /api/create  {"model":"new","from":"m","stream":false,"template":"{{","license":5,"parameters":{"seed":"x"},"messages":[{"role":"user","content":"a","images":["illegal!"]}]}  400  template error: template: :1: unclosed action
POST  /api/create  {"model":"new","from":"m","renderer":5}  400  json: cannot unmarshal number into Go struct field CreateRequest.renderer of type string
POST  /api/copy    400  missing request body
POST  /api/copy  {"source":"m:","destination":"n"}  400  source "m:" is invalid
POST  /api/copy  {"source":"m","destination":"n:"}  400  destination "n:" is invalid
POST  /api/copy  {"source":"nope","destination":"n"}  404  model "nope" not found
DELETE  /api/delete    400  missing request body
DELETE  /api/delete  {}  400  model is required
DELETE  /api/delete  {"model":"m:"}  400  name "m:" is invalid
DELETE  /api/delete  {"model":"nope"}  404  model 'nope' not found
POST  /api/blobs/sha256:0  x  400  invalid digest format
"#;

#[test]
fn faults_of_model_management() {
    for row in MANAGEMENT.lines().filter(|row| !row.is_empty()) {
        let [method, path, body, code, text] =
            row.split("  ").collect::<Vec<_>>().try_into().expect("five columns");
        let answer = Proxy::start(&Upstream::start()).client().call(method, path, body).answer();
        assert_eq!(answer.status().to_string(), code, "{row}: {}", answer.body);
        assert_eq!(answer.error(), text, "{row}");
    }
}
