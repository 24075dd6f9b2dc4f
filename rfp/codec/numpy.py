"""numpy arrays as values: dtype, shape and order are stored with the data, in the .npy format.

>>> import numpy as np, rfp
>>> from rfp.codec import numpy as codec
>>> with rfp.Server(memory="16MiB") as server, rfp.connect(server.address) as kv:
...     version = kv.put(b"grid", codec.pack(np.eye(2, dtype=np.float32)))
...     codec.unpack(kv.get(b"grid"))
array([[1., 0.],
       [0., 1.]], dtype=float32)
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, Literal

from rfp.errors import InvalidArgument, WrongType

try:
    import numpy as np
    from numpy.lib import format as npy
except ImportError as error:
    raise ImportError("rfp.codec.numpy needs numpy: pip install 'rfp-rnvm[numpy]'") from error

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Buffer

HEADER_BYTES_MAX = 10_000  # numpy refuses to read a longer one


def pack(array: NDArray[Any]) -> bytearray:
    """Return a value that contains an array.

    Args:
        array: of any shape and any type without Python objects; one that is not contiguous is
            stored in C order.

    Returns:
        A bytearray for `put`: the header of the .npy format and the data.

    Raises:
        WrongType: it is not an array, or its elements are Python objects.
        InvalidArgument: the description of its type is too long or not in Latin-1.

    Cost:
        One copy of the data.
    """
    header, order = _header(array)
    value = bytearray(len(header) + array.nbytes)
    _fill(array, header, order, memoryview(value))
    return value


def packed_size(array: NDArray[Any]) -> int:
    """Return the length of the value that contains an array, for `Client.reserve`.

    Args:
        array: as for pack().

    Raises:
        WrongType, InvalidArgument: as pack().

    Cost:
        No copy.
    """
    return len(_header(array)[0]) + array.nbytes


def pack_into(array: NDArray[Any], buffer: Buffer) -> None:
    """Write the value that contains an array into a buffer.

    Args:
        array: as for pack().
        buffer: contiguous and writable, of packed_size(array) bytes.

    Raises:
        WrongType: as pack(), or the object is no buffer.
        InvalidArgument: as pack(), or the buffer is not writable or has another length.

    Cost:
        One copy of the data.

    >>> import numpy as np, rfp
    >>> from rfp.codec import numpy as codec
    >>> grid = np.eye(2)
    >>> with rfp.Server(memory="16MiB") as server, rfp.connect(server.address) as kv:
    ...     with kv.reserve(b"grid", codec.packed_size(grid)) as buffer:
    ...         codec.pack_into(grid, buffer)
    ...     codec.unpack(kv.view(b"grid"))
    array([[1., 0.],
           [0., 1.]])
    """
    header, order = _header(array)
    try:
        target = memoryview(buffer).cast("B")
    except TypeError as error:
        raise WrongType(f"pack_into needs a contiguous buffer: {error}") from None
    size = len(header) + array.nbytes
    if target.readonly or len(target) != size:
        raise InvalidArgument(
            f"the buffer must be writable and have {size} bytes, got {len(target)}",
            hint="reserve packed_size(array) bytes",
        )
    _fill(array, header, order, target)


def _header(array: NDArray[Any]) -> tuple[bytes, Literal["C", "F"]]:
    """Return the header of the value that contains an array, and the order of the data."""
    if not isinstance(array, np.ndarray):
        raise WrongType(
            f"pack needs a numpy array, not {type(array).__name__}",
            hint="use numpy.asarray(...)",
        )
    if array.dtype.hasobject:
        raise WrongType(
            f"cannot store an array of Python objects (dtype {array.dtype})",
            hint="convert it to a type of fixed size; nothing is pickled",
        )
    header = io.BytesIO()
    description = npy.header_data_from_array_1_0(array)
    try:
        npy.write_array_header_2_0(header, description)
    except UnicodeEncodeError:
        raise InvalidArgument("the names of fields must consist of Latin-1 characters") from None
    size = header.tell()
    if size > HEADER_BYTES_MAX:
        raise InvalidArgument(
            f"the description of dtype must have at most {HEADER_BYTES_MAX} bytes, got {size}",
            hint="use a type with fewer or shorter field names",
        )
    return header.getvalue(), "F" if description["fortran_order"] else "C"


def _fill(array: NDArray[Any], header: bytes, order: Literal["C", "F"], target: memoryview) -> None:
    size = len(header)
    target[:size] = header
    data = np.frombuffer(target, array.dtype, array.size, size).reshape(array.shape, order=order)
    data[...] = array


def unpack(value: Buffer) -> NDArray[Any]:
    """Return the array that a value contains, without a copy.

    Args:
        value: bytes of `get`, a view, or a buffer that `get_into` filled; the array uses its
            memory, which it keeps, and can be written if the buffer can.

    Returns:
        An array with the stored dtype, shape and order.

    Raises:
        InvalidArgument: the value is not an array that pack() has made.

    Cost:
        No copy.
    """
    view = memoryview(value).cast("B")
    header = io.BytesIO(view[: 2 * HEADER_BYTES_MAX])
    try:
        if npy.read_magic(header) != (2, 0):
            raise ValueError("it has another version of the .npy format")
        shape, fortran_order, dtype = npy.read_array_header_2_0(header)
        data = view[header.tell() :]
        needed = dtype.itemsize * math.prod(shape)
        if dtype.hasobject or needed != len(data):
            raise ValueError(f"{len(data)} bytes of data are not an array {shape} of {dtype}")
        order: Literal["C", "F"] = "F" if fortran_order else "C"
        if not needed:
            return np.empty(shape, dtype, order)
        return np.frombuffer(data, dtype).reshape(shape, order=order)
    except Exception as error:  # noqa: BLE001 - numpy's parser raises errors of many kinds
        raise InvalidArgument(
            f"the value is not an array: {error}", hint="store arrays with pack()"
        ) from None
