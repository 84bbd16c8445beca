"""Images made anew from their pixels and allowed facts: DICOM, PNG and JPEG, from a file, a folder or a zip."""
