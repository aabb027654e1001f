"""Reads DICOM radiographs: header, refusals and warnings, pixels, greys, and the facts about a patient.

Only this package imports pydicom. It is imported when a process meets its first DICOM file.
"""
