//! A document with the place of every key and value.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_yaml::Spanned;

use super::Location;

/// A value and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    at: Location,
    content: Content,
}

#[derive(Debug, Clone, PartialEq)]
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    key: String,
    at: Location,
    node: Node,
}

impl Node {
    pub(super) fn is_null(&self) -> bool {
        matches!(self.content, Content::Scalar(Value::Null))
    }

    pub(super) fn location(&self) -> Location {
        self.at
    }

    /// The text of a key, in a map.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        let Content::Map(entries) = &self.content else { return None };
        entries.iter().find(|entry| entry.key == key).and_then(|entry| match &entry.node.content {
            Content::Scalar(Value::String(text)) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Takes the list of a key out of a map.
    pub(super) fn take_list(self, key: &str) -> Option<Vec<Node>> {
        let Content::Map(entries) = self.content else { return None };
        entries.into_iter().find(|entry| entry.key == key).and_then(|entry| match entry.node.content {
            Content::List(list) => Some(list),
            Content::Scalar(Value::Null) => Some(Vec::new()),
            _ => None,
        })
    }

    /// The value, and the places by themselves.
    pub(super) fn split(self) -> (Value, Places) {
        let at = self.at;
        let (value, inner) = match self.content {
            Content::Scalar(value) => (value, Inner::Scalar),
            Content::List(list) => {
                let (values, places) = list.into_iter().map(Node::split).unzip();
                (Value::Array(values), Inner::List(places))
            }
            Content::Map(entries) => {
                let mut map = Map::new();
                let mut places = Vec::with_capacity(entries.len());
                for entry in entries {
                    let (value, inner) = entry.node.split();
                    places.push((entry.key.clone().into_boxed_str(), entry.at, inner));
                    map.insert(entry.key, value);
                }
                (Value::Object(map), Inner::Map(places))
            }
        };
        (value, Places { at, inner })
    }
}

/// The places of a document's keys and values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Places {
    at: Location,
    inner: Inner,
}

#[derive(Debug, Clone, PartialEq)]
enum Inner {
    Scalar,
    List(Vec<Places>),
    Map(Vec<(Box<str>, Location, Places)>),
}

impl Places {
    /// The place of the key at a path such as `spec.volumes[0].name`, or of what is nearest above it.
    pub(super) fn find(&self, path: &str) -> Location {
        let (mut here, mut at, mut rest) = (self, self.at, path);
        loop {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            if rest.is_empty() {
                return at;
            }
            match &here.inner {
                Inner::Scalar => return at,
                Inner::List(list) => {
                    let Some((index, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
                    else {
                        return at;
                    };
                    let Some(item) = index.parse::<usize>().ok().and_then(|index| list.get(index)) else {
                        return at;
                    };
                    (here, at, rest) = (item, item.at, after);
                }
                Inner::Map(entries) => {
                    // Keys may hold dots themselves, so the longest that fits is taken.
                    let fits = |key: &str| {
                        rest.strip_prefix(key)
                            .is_some_and(|after| after.is_empty() || after.starts_with(['.', '[']))
                    };
                    let found =
                        entries.iter().filter(|(key, ..)| fits(key)).max_by_key(|(key, ..)| key.len());
                    let Some((key, place, child)) = found else { return at };
                    (here, at, rest) = (child, *place, &rest[key.len()..]);
                }
            }
        }
    }
}

fn place(location: serde_yaml::Location) -> Location {
    Location { line: location.line(), column: location.column() }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        Ok(Node { at: place(spanned.referenced), content: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map, a list or a scalar")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Content, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("number is not finite"))?;
        Ok(Content::Scalar(Value::Number(number)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(Value::String(value.to_owned())))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Content, E> {
        Ok(Content::Scalar(Value::String(value)))
    }

    fn visit_unit<E: Error>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element::<Node>()? {
            list.push(node);
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let at = place(key.referenced);
            entries.push(Entry { key: key.value, at, node: map.next_value()? });
        }
        Ok(Content::Map(entries))
    }
}
