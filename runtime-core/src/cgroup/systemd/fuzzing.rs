//! What a spec and a bus say, for [`crate::fuzzing`].

use std::collections::HashMap;

use zvariant::serialized::Context;
use zvariant::{LE, OwnedObjectPath, OwnedValue, to_bytes};

use super::message::{HEAD, Message};
use super::{annotations, gvariant};

/// What is taken for a value can be sent.
pub(crate) fn property(text: &str) {
    if let Ok(value) = gvariant::parse(text) {
        assert!(to_bytes(Context::new_dbus(LE, 0), &value).is_ok(), "{value:?}");
    }
    let annotation = |name: &str| HashMap::from([(format!("{}{name}", annotations::PREFIX), text.to_owned())]);
    for name in ["TimeoutStopSec", "After"] {
        // What is no value is an error, and no more.
        annotations::properties(&annotation(name)).ok();
    }
}

/// As a connection reads it: the head, then as much as that says.
pub(crate) fn message(bytes: &[u8]) {
    const OPERATION: &str = "fuzz";
    let Some(Ok(length)) = bytes.first_chunk::<HEAD>().map(|head| Message::length(head, OPERATION)) else { return };
    assert!(length >= HEAD, "{length} bytes are no head");
    let Some(Ok(message)) = bytes.get(..length).map(|bytes| Message::parse(bytes, OPERATION)) else { return };
    message.text();
    message.arguments::<(OwnedValue,)>(OPERATION).ok();
    message.arguments::<(OwnedObjectPath,)>(OPERATION).ok();
    message.arguments::<(u32, OwnedObjectPath, String, String)>(OPERATION).ok();
}
