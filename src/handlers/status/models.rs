//! The models of the status page: where each name goes, and what is known of it.
//!
//! Reads the lists that are at hand and fetches none. Invariant: at most [`MAX_MODELS`] are written, and the
//! total is told.

use std::collections::HashSet;
use std::sync::Arc;

use crate::api::wire::json_writer::JsonWriter;
use crate::backends::names;
use crate::handlers::AppView;
use crate::models::catalog::{self, SharedModelList};
use crate::models::configured::ConfiguredModel;
use crate::models::model::Model;
use crate::upstream::Upstream;

/// The most models that are written.
const MAX_MODELS: usize = 500;

/// Entries of each list that are looked through for further upstreams of a model.
const MAX_SEARCHED: usize = 2000;

/// An upstream and its list.
type Listed<'a> = (&'a Arc<Upstream>, SharedModelList);

/// Where a name goes, and the first model there that a list describes.
#[derive(Default)]
struct Place<'a> {
    upstreams: Vec<&'a str>,
    model: Option<&'a Model>,
}

impl<'a> Place<'a> {
    /// The upstreams that list an id, in their order.
    fn of_id(lists: &'a [Listed<'a>], id: &str) -> Self {
        let mut place = Self::default();
        lists.iter().for_each(|listed| place.add(listed, id));
        place
    }

    /// The targets of a model of the configuration.
    fn of_configured(lists: &'a [Listed<'a>], configured: &'a ConfiguredModel) -> Self {
        let mut place = Self::default();
        for target in &configured.targets {
            let Some(name) = &target.upstream else {
                lists.iter().for_each(|listed| place.add(listed, &target.id));
                continue;
            };
            if let Some(listed) = lists.iter().find(|(upstream, _)| upstream.name() == name) {
                place.add(listed, &target.id);
            }
            place.add_upstream(name);
        }
        place
    }

    fn add(&mut self, (upstream, list): &'a Listed<'a>, id: &str) {
        let searched = &list[..list.len().min(MAX_SEARCHED)];
        if let Some(found) = catalog::find_model(searched, id) {
            self.model = self.model.or(Some(found));
            self.add_upstream(upstream.name());
        }
    }

    /// The same for an id of another list, which has it in the same spelling.
    fn add_exactly(&mut self, (upstream, list): &'a Listed<'a>, id: &str) {
        if list.iter().take(MAX_SEARCHED).any(|model| model.id == id) {
            self.add_upstream(upstream.name());
        }
    }

    fn add_upstream(&mut self, name: &'a str) {
        if !self.upstreams.contains(&name) {
            self.upstreams.push(name);
        }
    }
}

/// Writes the members `models` and `models_total`.
pub(super) fn write(json: &mut JsonWriter, app: AppView<'_>) {
    let list = |upstream: &Arc<Upstream>| {
        let list = upstream.catalog.get_cached();
        list.or_else(|| upstream.client.fixed_list().map(Arc::new)).unwrap_or_default()
    };
    let (router, made) = (app.router, app.store.snapshot());
    let lists: Vec<Listed<'_>> = router.upstreams().iter().map(|it| (it, list(it))).collect();
    let made = made.values().filter(|it| router.find_configured(&it.name).is_none());
    let made = made.take(MAX_MODELS);
    let mut known = HashSet::new();
    json.open_list("models");
    for configured in router.models().iter().filter(|model| !model.is_hidden) {
        let place = Place::of_configured(&lists, configured);
        let target = configured.targets.first().map_or("", |target| &target.id);
        write_model(
            (json, app),
            &mut known,
            &configured.model.name,
            (target, &place),
            Some(configured),
        );
    }
    for model in made {
        let base = router.find_configured(&model.from);
        let place = base.map_or_else(
            || Place::of_id(&lists, &model.from),
            |base| Place::of_configured(&lists, base),
        );
        write_model((json, app), &mut known, &model.name, (&model.from, &place), base);
    }
    for (at, (upstream, list)) in lists.iter().enumerate() {
        for model in list.iter() {
            if router.find_configured(&model.id).is_some() || known.contains(&*model.id) {
                continue;
            }
            // Of those beyond the limit nothing but their number is told.
            let mut place = Place { upstreams: vec![upstream.name()], model: Some(model) };
            if known.len() < MAX_MODELS {
                lists[at + 1..].iter().for_each(|listed| place.add_exactly(listed, &model.id));
            }
            write_model((json, app), &mut known, &model.id, (&model.id, &place), None);
        }
    }
    json.close_list();
    json.number("models_total", known.len() as u64);
}

fn write_model<'a>(
    (json, app): (&mut JsonWriter, AppView<'_>),
    known: &mut HashSet<&'a str>,
    name: &'a str,
    (target, place): (&str, &Place<'_>),
    configured: Option<&ConfiguredModel>,
) {
    let name = names::strip_latest_tag(name).filter(|_| target != name).unwrap_or(name);
    let is_seen = app.may_see(name, ("", target))
        || place.upstreams.iter().any(|upstream| app.may_see(name, (upstream, target)));
    if !is_seen || !known.insert(name) || known.len() > MAX_MODELS {
        return;
    }
    let mut model = place.model.cloned().unwrap_or_else(|| Model::from_id(target));
    configured.iter().for_each(|configured| configured.apply_to(&mut model));
    json.open_object();
    json.text("name", name);
    json.text("upstream", &place.upstreams.join(", "));
    json.text_or_null("target", if target == name { "" } else { target });
    json.open_list("capabilities");
    model.capability_names().iter().for_each(|it| json.item(it));
    json.close_list();
    json.number_or_null("context_length", model.context_length);
    json.close_object();
}
