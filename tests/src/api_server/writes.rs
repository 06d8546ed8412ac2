//! Writes of clients: create, replace, patch and delete.

use serde_json::{Map, Value, json};

use super::http::Asked;
use super::kinds::{Target, key};
use super::{State, missing, status};

impl State {
    /// Carries out a write. Returns the status of HTTP, and the object or the reason.
    pub(super) fn write(&mut self, asked: &Asked, target: &Target<'_>) -> (u16, Value) {
        let (code, body) = self
            .carry_out(asked, target)
            .unwrap_or_else(|refused| refused);
        if code < 300 {
            let path = asked.path();
            self.written_by.push(format!("{} {path}", asked.method));
        }
        (code, body)
    }

    fn carry_out(
        &mut self,
        asked: &Asked,
        target: &Target<'_>,
    ) -> Result<(u16, Value), (u16, Value)> {
        let method = asked.method.as_str();
        if method == "POST" {
            let mut object = body_of(asked)?;
            place(&mut object, target);
            if self.objects.contains_key(&key(target.kind.name, &object)) {
                return Err((409, status(409, "AlreadyExists", "it is there already")));
            }
            self.check(target, &object)?;
            return Ok((201, self.put(target.kind, object)));
        }
        let name = target.name.ok_or_else(|| (405, missing()))?;
        let before = self.object(&target.key(name));
        let is_apply = asked.content_type.contains("apply-patch");
        let before = match before {
            None if is_apply => Value::Object(Map::new()),
            None => return Err((404, missing())),
            Some(before) => before,
        };
        if method == "DELETE" {
            self.objects.remove(&target.key(name));
            self.tell(target.kind.name, "DELETED", before);
            let done = json!({"kind": "Status", "apiVersion": "v1", "status": "Success"});
            return Ok((200, done));
        }
        let given = body_of(asked)?;
        self.refuse_stale(&before, &given)?;
        let mut after = before.clone();
        match (method, asked.content_type.as_str()) {
            ("PUT", _) => {
                after = given;
                after["metadata"]["uid"] = before["metadata"]["uid"].clone();
            }
            // The one owner of what it applies: what it does not say any more is gone.
            (_, kind) if kind.contains("apply-patch") => {
                let said = given.as_object().into_iter().flatten();
                for (key, value) in said.filter(|(key, _)| *key != "metadata") {
                    after[key] = value.clone();
                }
                merge(&mut after["metadata"], &given["metadata"]);
            }
            // Lists that are one value in either way, as all are that tests write.
            (_, kind) if kind.contains("merge-patch") => merge(&mut after, &given),
            (_, kind) => {
                let message = format!("patches of {kind} are not known");
                return Err((415, status(415, "UnsupportedMediaType", &message)));
            }
        }
        place(&mut after, target);
        after["metadata"]["name"] = name.into();
        self.check(target, &after)?;
        Ok((200, self.put(target.kind, after)))
    }

    /// Refuses what was made of a version that is not the newest any more.
    fn refuse_stale(&mut self, before: &Value, given: &Value) -> Result<(), (u16, Value)> {
        let named = &given["metadata"]["resourceVersion"];
        let is_stale = !named.is_null() && *named != before["metadata"]["resourceVersion"];
        let is_refused = self.conflicts > 0 && !named.is_null();
        if is_refused {
            self.conflicts -= 1;
        }
        if is_stale || is_refused {
            let message = "the object has been modified; please apply your changes to the latest \
                           version and try again";
            return Err((409, status(409, "Conflict", message)));
        }
        Ok(())
    }

    /// Refuses an object that the schema of its kind does not allow.
    fn check(&self, target: &Target<'_>, object: &Value) -> Result<(), (u16, Value)> {
        let problems = super::schemas::problems(target.kind.name, object);
        if problems.is_empty() {
            return Ok(());
        }
        Err((422, status(422, "Invalid", &problems.join("; "))))
    }
}

/// Puts an object where the path of its request leads.
fn place(object: &mut Value, target: &Target<'_>) {
    if let Some(namespace) = target.namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
}

fn body_of(asked: &Asked) -> Result<Value, (u16, Value)> {
    // JSON is YAML, and an apply may be either.
    let body: Option<Value> = serde_yaml::from_slice(&asked.body).ok();
    let body = body.filter(Value::is_object);
    body.ok_or_else(|| (400, status(400, "BadRequest", "the body is no object")))
}

/// Merges by RFC 7396.
fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let object = object.as_object_mut().expect("it is one now");
    for (key, value) in patch {
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key).or_insert(Value::Null), value);
        }
    }
}
