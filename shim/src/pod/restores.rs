//! Pods that are being restored. containerd starts each container by itself; those whose images are of one pod's checkpoint
//! belong together.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use runtime_core::container::{PodError, PodRestore};

/// By the directory of the pod's checkpoint. Who restores holds them; when all have ended there is nothing left here but the
/// key, which the next one of the same directory takes over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Restores(Arc<Mutex<HashMap<PathBuf, Weak<PodRestore>>>>);

impl Restores {
    /// The restore that a container with these images is part of, and what it is called there; `None` for a container that
    /// was checkpointed alone.
    pub(crate) fn of(&self, image_dir: &Path) -> Result<Option<(Arc<PodRestore>, String)>, PodError> {
        let Some((dir, member)) = PodRestore::around(image_dir)? else { return Ok(None) };
        let mut restores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        restores.retain(|_, restore| restore.strong_count() > 0);
        let under_way = restores.get(&dir).and_then(Weak::upgrade).filter(|restore| !restore.is_over());
        let restore = match under_way {
            Some(restore) => restore,
            None => {
                let restore = Arc::new(PodRestore::new(&dir)?);
                restores.insert(dir, Arc::downgrade(&restore));
                restore
            }
        };
        Ok(Some((restore, member)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_of_one_checkpoint_meet_and_others_do_not() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "alone"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let member = |id| format!(r#"{{"id":"{id}","joined":[]}}"#);
        let members = [member("a"), member("b")].join(",");
        let json = format!(r#"{{"version":1,"created":0,"leftRunning":false,"members":[{members}]}}"#);
        std::fs::write(dir.path().join("pod.json"), json).unwrap();

        let restores = Restores::default();
        let of = |name: &str| restores.of(&dir.path().join(name)).unwrap();
        let (a, name) = of("a").unwrap();
        let (b, _) = of("b").unwrap();
        assert!(Arc::ptr_eq(&a, &b) && name == "a");
        assert!(of("alone").is_none());
        drop((a, b));
        assert!(of("a").is_some_and(|(again, _)| !again.is_over()));
    }
}
