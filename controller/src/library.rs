//! The policy library, as it is shipped inside the binary.
//!
//! A template is a folder of documents with a README, whose first line says in a few
//! words what the template is.

use include_dir::{Dir, File, include_dir};

static LIBRARY: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../policies/library");

/// The file that explains a template.
const README: &str = "README.md";

/// A folder of the library.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    folder: &'static Dir<'static>,
}

/// All templates, in the order of their names.
pub fn templates() -> impl Iterator<Item = Template> {
    let mut folders: Vec<&Dir<'static>> = LIBRARY.dirs().collect();
    folders.sort_by_key(|folder| folder.path());
    folders.into_iter().map(|folder| Template { folder })
}

impl Template {
    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        templates().find(|template| template.name() == name)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let name = self.folder.path().to_str();
        name.expect("folders of the library have names in ASCII")
    }

    /// Returns the title of the template's README, which says in a few words what it is for.
    #[must_use]
    pub fn about(self) -> &'static str {
        let readme = self.files().find(|(name, _)| *name == README);
        let text = readme.and_then(|(_, bytes)| std::str::from_utf8(bytes).ok());
        let first = text.and_then(|text| text.lines().next());
        first.unwrap_or_default().trim_start_matches("# ")
    }

    /// Its files: name and content, in the order of their names.
    pub fn files(self) -> impl Iterator<Item = (&'static str, &'static [u8])> {
        let mut files: Vec<&File<'static>> = self.folder.files().collect();
        files.sort_by_key(|file| file.path());
        files.into_iter().map(|file| {
            let name = file
                .path()
                .file_name()
                .and_then(|name| name.to_str())
                .expect("files of the library have names in ASCII");
            (name, file.contents())
        })
    }
}
