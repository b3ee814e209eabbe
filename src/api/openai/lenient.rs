//! Reading of members that may have any type: one of an unexpected type counts as absent.
//!
//! For types that come once in a response (counts, measurements, log probabilities). They are read
//! through [`Value`], because derived readers, one for each type and member, are several times as
//! large. What comes with every token is read by `chunk::lenient` instead.

use serde_json::{Map, Value};

/// A type of which a member can be.
pub(super) trait Member: Sized {
    /// The value, or `None` if it has another type. `null` counts as absent where that is possible.
    fn read(value: &Value) -> Option<Self>;
}

impl Member for String {
    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl Member for u64 {
    fn read(value: &Value) -> Option<Self> {
        value.as_u64()
    }
}

impl Member for f64 {
    fn read(value: &Value) -> Option<Self> {
        value.as_f64()
    }
}

impl Member for Map<String, Value> {
    fn read(value: &Value) -> Option<Self> {
        value.as_object().cloned()
    }
}

impl<T: Member> Member for Option<T> {
    fn read(value: &Value) -> Option<Self> {
        if value.is_null() { Some(None) } else { T::read(value).map(Some) }
    }
}

impl<T: Member> Member for Vec<T> {
    fn read(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(T::read).collect()
    }
}

/// Defines types of which each member is read by [`Member`]. A second key may stand behind a member's
/// name: it is read where the first one is absent.
macro_rules! lenient {
    ($(
        $(#[$meta:meta])* pub struct $name:ident {
            $($(#[$field_meta:meta])* pub $field:ident $(or $other:literal)?: $type:ty,)*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $crate::api::openai::lenient::Member for $name {
            fn read(value: &Value) -> Option<Self> {
                value.is_object().then(|| Self {
                    $($field: $crate::api::openai::lenient::Member::read(
                        &value[stringify!($field)],
                    )
                    $(.or_else(|| $crate::api::openai::lenient::Member::read(&value[$other])))?
                    .unwrap_or_default(),)*
                })
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = Value::deserialize(deserializer)?;
                $crate::api::openai::lenient::Member::read(&value)
                    .ok_or_else(|| de::Error::custom("not an object"))
            }
        }
    )*};
}
pub(super) use lenient;
