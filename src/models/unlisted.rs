//! The models that no list contains, of which requests ask again and again.
//!
//! All that is known of such a model follows from its id, through tables of some hundred names: a tenth of the
//! time of a short request. Invariant: a kept model is what [`Model::from_id`] would make of its id.

use std::sync::{Arc, Mutex};

use crate::models::model::Model;
use crate::observe::lock::lock;

/// Models that are kept.
const MAX_MODELS: usize = 16;

/// The longest id that is kept, in bytes: a client may send any.
const MAX_ID_BYTES: usize = 256;

/// The models that were asked for last.
#[derive(Debug, Default)]
pub struct UnlistedModels {
    /// The one that was made last is the last one.
    models: Mutex<Vec<Arc<Model>>>,
}

impl UnlistedModels {
    /// The model of this id.
    pub fn get(&self, id: &str) -> Arc<Model> {
        if let Some(model) = lock(&self.models).iter().find(|model| model.id == id) {
            return model.clone();
        }
        let model = Arc::new(Model::from_id(id));
        if id.len() <= MAX_ID_BYTES {
            let mut models = lock(&self.models);
            if models.len() >= MAX_MODELS {
                models.remove(0);
            }
            models.push(model.clone());
        }
        model
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_model_is_the_one_that_its_id_makes() {
        let unlisted = UnlistedModels::default();
        for id in ["gpt-4o", "bge-m3", "qwen3:8b", "nobody-knows-this", "gpt-4o", ""] {
            assert_eq!(*unlisted.get(id), Model::from_id(id), "{id}");
        }
        assert!(Arc::ptr_eq(&unlisted.get("gpt-4o"), &unlisted.get("gpt-4o")));
    }

    #[test]
    fn clients_cannot_fill_the_memory_with_names() {
        let unlisted = UnlistedModels::default();
        let long = "x".repeat(MAX_ID_BYTES + 1);
        assert!(!Arc::ptr_eq(&unlisted.get(&long), &unlisted.get(&long)));
        let first = unlisted.get("0");
        for number in 0..5 * MAX_MODELS {
            unlisted.get(&number.to_string());
            assert!(lock(&unlisted.models).len() <= MAX_MODELS);
        }
        assert!(!Arc::ptr_eq(&unlisted.get("0"), &first));
    }
}
