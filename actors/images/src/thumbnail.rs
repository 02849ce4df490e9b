//! Scales pictures. It must not know where they come from or where they are kept.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageFormat, ImageReader, Limits};

/// No camera's picture is wider or higher.
const EDGE_MAX: u32 = 8_000;
/// 40 megapixels of three bytes: half the memory that an instance has by default, as the sent bytes and the small
/// picture have to fit, too.
const DECODED_BYTES_MAX: u64 = 120 << 20;
/// Above it pictures grow faster than anybody sees.
const JPEG_QUALITY: u8 = 82;

/// `bytes` scaled so that neither edge is over `max_edge` pixels. The error is in words for who sent the picture.
pub(crate) fn of(bytes: &[u8], max_edge: u32) -> Result<Vec<u8>, String> {
    if max_edge == 0 {
        return Err("a thumbnail has at least one pixel".to_owned());
    }
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| format!("the picture can't be read: {error}"))?;
    let format = match reader.format() {
        Some(format @ (ImageFormat::Png | ImageFormat::Jpeg)) => format,
        _ => return Err("a picture is a PNG or a JPEG".to_owned()),
    };
    let mut limits = Limits::default();
    limits.max_image_width = Some(EDGE_MAX);
    limits.max_image_height = Some(EDGE_MAX);
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    reader.limits(limits);
    let picture = reader
        .decode()
        .map_err(|error| format!("the picture can't be read: {error}"))?;
    let scaled = if picture.width().max(picture.height()) > max_edge {
        picture.thumbnail(max_edge, max_edge)
    } else {
        picture
    };
    encoded(scaled, format).map_err(|error| format!("the picture can't be written: {error}"))
}

/// The media type of what [`of`] returned.
pub(crate) fn media_type(bytes: &[u8]) -> &'static str {
    match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => "image/jpeg",
        _ => "image/png",
    }
}

fn encoded(picture: DynamicImage, format: ImageFormat) -> image::ImageResult<Vec<u8>> {
    let mut bytes = Vec::new();
    if format == ImageFormat::Jpeg {
        // A JPEG knows neither transparency nor 16 bits.
        picture
            .to_rgb8()
            .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY))?;
    } else {
        picture.write_to(&mut Cursor::new(&mut bytes), format)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    fn picture(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let stripes = RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 128]));
        encoded(stripes.into(), format).unwrap()
    }

    fn size(bytes: &[u8]) -> (u32, u32) {
        let picture = image::load_from_memory(bytes).unwrap();
        (picture.width(), picture.height())
    }

    #[test]
    fn scales_the_longer_edge_and_keeps_shape_and_format() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg] {
            let small = of(&picture(400, 100, format), 80).unwrap();
            assert_eq!(size(&small), (80, 20));
            assert_eq!(image::guess_format(&small).unwrap(), format);
            assert_eq!(media_type(&small), format.to_mime_type());
        }
    }

    #[test]
    fn never_scales_up() {
        assert_eq!(
            size(&of(&picture(40, 10, ImageFormat::Png), 80).unwrap()),
            (40, 10)
        );
    }

    #[test]
    fn refuses_what_is_no_picture_in_words() {
        let cut = &picture(400, 100, ImageFormat::Png)[..60];
        let others: [&[u8]; 4] = [b"", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>", cut];
        for bytes in others {
            assert!(of(bytes, 80).unwrap_err().contains("picture"));
        }
        assert!(of(&picture(4, 4, ImageFormat::Png), 0).is_err());
    }

    #[test]
    fn refuses_a_small_file_that_unfolds_into_a_huge_picture() {
        let bomb = picture(EDGE_MAX + 1, 1, ImageFormat::Png);
        assert!(bomb.len() < 100_000 && of(&bomb, 80).is_err());
    }
}
