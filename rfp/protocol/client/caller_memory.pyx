"""The caller's memory: the buffers that calls take, and registered ones."""

import re
import sys

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBUF_WRITE, PyBuffer_Release,
    PyObject_GetBuffer,
)
from libc.stdint cimport uintptr_t
from libc.string cimport memset, strpbrk

from rfp.errors import WrongBuffer, WrongType, not_copied

cdef extern from "Python.h":
    object PyMemoryView_FromMemory(char *memory, Py_ssize_t size, int flags)


# Letters of a buffer's format for elements that are addresses: objects, pointers, C strings,
# functions.  "Zf", "Zd", "Zg" are complex numbers.  Names of fields, between colons, do not count.
FIELD_NAME = re.compile(r":[^:]*:")
ADDRESS = re.compile(r"[OPz&X]|Z(?![fdg])")


cdef int take_buffer(object thing, Py_buffer *view, bint writable, str noun="values") except -1:
    """Get the memory of a value, or of a buffer for one; the caller calls PyBuffer_Release.

    Raises:
        WrongType: the object is no buffer, or its elements are addresses.
        WrongBuffer: it is not contiguous, or not writable.
    """
    cdef int flags = PyBUF_WRITABLE if writable else PyBUF_SIMPLE
    cdef int described = flags
    if isinstance(thing, str):
        raise WrongType(f"{noun} must be bytes or buffers, not a str of {len(thing)} characters",
                        hint=f"use {noun.removesuffix('s')}.encode()")
    if type(thing) is not bytes and type(thing) is not bytearray:
        refuse_elements(thing, noun)
        described |= PyBUF_ND | PyBUF_FORMAT
    try:
        try:
            PyObject_GetBuffer(thing, view, described)
        except (BufferError, ValueError):
            if described == flags:
                raise
            # Numpy has no format for its dates; refuse_elements() has excluded objects.
            PyObject_GetBuffer(thing, view, flags)
    except TypeError:
        if not is_tensor(thing):
            raise WrongType(f"{noun} must be bytes or buffers, not {type(thing).__name__}",
                            hint="give a bytearray or a numpy array"
                            if writable else "encode it: json, pickle, struct") from None
        PyObject_GetBuffer(tensor_memory(thing), view, PyBUF_SIMPLE | PyBUF_WRITABLE)
    except (BufferError, ValueError) as error:      # numpy raises the latter
        raise WrongBuffer(f"cannot use this {type(thing).__name__}: {error}",
                          hint="give a contiguous writable buffer"
                          if writable else "make a copy: bytes(value)") from None
    try:
        refuse_addresses(view.format, thing, noun)
    except BaseException:
        PyBuffer_Release(view)
        raise
    return 0


cdef int refuse_addresses(const char *format, object thing, str noun) except -1:
    """Raise WrongType if the elements are addresses, which are valid in this process only."""
    if format != NULL and strpbrk(format, "OPzZ&X") != NULL:
        if ADDRESS.search(FIELD_NAME.sub("", format.decode(errors="replace"))):
            raise addresses(thing, noun)
    return 0


cdef int refuse_elements(object thing, str noun) except -1:
    """Raise WrongType for objects that numpy exports as bytes although their value is another.

    These are addresses, numbers and masked arrays.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return 0
    if isinstance(thing, numpy.ndarray):
        if thing.dtype.hasobject:
            raise addresses(thing, noun)
        if type(thing) is not numpy.ndarray and isinstance(thing, numpy.ma.MaskedArray):
            raise WrongType(f"{noun} must be bytes or buffers, not a "
                            "masked array: the mask would be lost",
                            hint="use array.filled(), or store array.data and array.mask")
    elif isinstance(thing, numpy.generic) and not isinstance(thing, (bytes, numpy.void)):
        raise WrongType(f"{noun} must be bytes or buffers, not {type(thing).__name__}",
                        hint="encode it: str(number).encode(), or numpy.asarray(number) for its "
                             "bytes")
    return 0


cdef object addresses(object thing, str noun):
    return WrongType(f"{noun} must be bytes, but the elements of this {type(thing).__name__} are "
                     "objects or pointers: only their "
                     "addresses would be stored",
                     hint="encode them: pickle, json, numpy's astype('S')")


def checked(thing, noun):
    """Return a memoryview of a buffer of any shape.

    Raises:
        WrongType: the object is no buffer, or its elements are addresses.
        WrongBuffer: its memory cannot be used.
    """
    cdef bytes format
    refuse_elements(thing, noun)
    try:
        view = memoryview(thing)
        format = view.format.encode()
    except TypeError:
        raise WrongType(f"{noun} must be bytes, not {type(thing).__name__}") from None
    except (BufferError, ValueError) as error:
        raise WrongBuffer(f"cannot use this {type(thing).__name__}: {error}",
                          hint="make a copy: bytes(value)") from None
    refuse_addresses(format, thing, noun)
    return view


cdef bint is_tensor(object thing):
    """Return whether this is a tensor like those of torch, which are no buffers."""
    return hasattr(thing, "data_ptr") and hasattr(thing, "element_size") and \
        hasattr(thing, "is_contiguous")


cdef object tensor_memory(object tensor):
    """Return a tensor's bytes as a buffer.

    Raises:
        WrongBuffer: they are not one piece of this host's memory.
    """
    device = getattr(getattr(tensor, "device", None), "type", "cpu")
    if device != "cpu" or getattr(tensor, "is_sparse", False):
        raise WrongBuffer(f"this {type(tensor).__name__} is not in host memory, but on {device}",
                          hint="use tensor.cpu()")
    if not tensor.is_contiguous():
        raise WrongBuffer(f"this {type(tensor).__name__} is not contiguous",
                          hint="use tensor.contiguous()")
    length = tensor.numel() * tensor.element_size()
    if not length:
        return bytearray()
    # The view does not keep the tensor alive: the caller does.
    return PyMemoryView_FromMemory(<char *> <uintptr_t> tensor.data_ptr(), length, PyBUF_WRITE)


cdef class Registration:
    """A buffer that requests reach without a copy, from Client.register() to close()."""

    def __cinit__(self, list owner not None, thing, connection):
        cdef Py_buffer buffer
        take_buffer(thing, &buffer, False)
        try:
            self.kept = thing
            try:
                self.view = memoryview(<object> buffer.obj).cast("B") if buffer.len else b""
            except (TypeError, ValueError) as error:        # numpy's dates
                raise WrongBuffer(f"cannot register this {type(thing).__name__}: {error}",
                                  hint="register its numbers: array.view('i8')") from None
            self.base = <char *> buffer.buf
            self.length = <uint64_t> buffer.len
        finally:
            PyBuffer_Release(&buffer)
        if connection.needs_registration and self.length:
            self.prepare(connection.fabric)
        self.owner = owner
        owner.append(self)

    def prepare(self, Fabric fabric not None):
        """Register the memory with the device that the connection uses now."""
        if self.fabric is not fabric:
            if self.region is not None:
                self.region.close()
                self.region = None
            self.region = fabric.share(self.view, 0, self.length, 0)
            self.fabric = fabric

    @property
    def nbytes(self):
        """Return the length of the buffer, in bytes."""
        return self.length

    def close(self):
        """End the registration as soon as no call uses it.  Safe to call again."""
        if not self.closed:
            self.closed = True
            self.owner.remove(self)
            self.finish()

    def leave(self):
        """End one call's use."""
        self.users -= 1
        self.finish()

    def finish(self):
        """Release the memory if the registration is closed and no call uses it."""
        if self.closed and not self.users:
            if self.region is not None:
                self.region.close()
            self.region = self.fabric = self.view = self.kept = None
            self.base = NULL

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __reduce__(self):
        raise not_copied(self, "register the buffer again")

    def __repr__(self):
        return f"<rfp.Registration of {self.length} bytes{' (closed)' if self.closed else ''}>"


cdef Registration registered(list registrations, const char *base, uint64_t length):
    cdef Registration each
    for each in registrations:
        if each.base <= base and length <= each.length and \
                <uint64_t> (base - each.base) <= each.length - length:
            each.users += 1
            return each
    return None


cdef class IoBuffer:
    """How a request reaches a range of the caller's memory."""

    cdef void end(self) noexcept:
        """End the use of the memory: no request reaches it any more.

        No Python code runs here, and so no signal handler, whose exception would be lost.
        """
        if self.registration is not None:
            self.registration.leave()
            self.registration = None
        if self.bounce_buffer is not None:
            self.bounce_buffers.append(self.bounce_buffer)
            self.bounce_buffer = None
            self.bounce = NULL


cdef IoBuffer open_io_buffer(object connection, list registrations, char *base, uint64_t length,
                             bint needs_registration):
    cdef IoBuffer buffer = IoBuffer.__new__(IoBuffer)
    memset(&buffer.direct, 0, sizeof(buffer.direct))
    buffer.base = base
    buffer.direct.base = base
    buffer.direct.length = length
    if not needs_registration:
        return buffer
    buffer.registration = registered(registrations, base, length)
    if buffer.registration is not None:
        buffer.registration.prepare(connection.fabric)
        buffer.direct = buffer.registration.region.c
        buffer.offset = base - buffer.registration.base
    else:
        buffer.bounce_buffers = connection.bounce_buffers
        buffer.bounce_buffer = connection.checkout_bounce_buffer()
        buffer.bounce = &buffer.bounce_buffer.c
    return buffer
