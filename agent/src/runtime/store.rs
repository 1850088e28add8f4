//! The images of a runtime, as the rest of the agent sees them: which there are, which are in use, remove one.

use std::collections::BTreeSet;
use std::path::PathBuf;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::RuntimeError;

/// An image that is here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredImage {
    /// Its id.
    pub id: String,
    /// Its names: by digest first, then by tag.
    pub names: Vec<String>,
    /// Bytes on disk.
    pub size: i64,
}

/// Where images are kept.
#[async_trait]
pub trait ImageStore: Send + Sync + 'static {
    /// All images.
    async fn stored(&self) -> Result<Vec<StoredImage>, RuntimeError>;
    /// The ids of images that any container has, whoever made it, running or not.
    async fn used_images(&self) -> Result<BTreeSet<String>, RuntimeError>;
    /// Takes an image away, by each of its names; one that a container has is refused.
    async fn remove_image(&self, image: &StoredImage) -> Result<(), RuntimeError>;
    /// Rings when images come, go or get names. Ends with an error when the runtime goes away.
    async fn image_events(&self) -> Result<BoxStream<'static, Result<(), RuntimeError>>, RuntimeError>;
    /// The folder whose disk it fills.
    async fn folder(&self) -> Result<PathBuf, RuntimeError>;
}
