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
    value = bytearray(size + array.nbytes)
    value[:size] = header.getbuffer()
    order: Literal["C", "F"] = "F" if description["fortran_order"] else "C"
    target = np.frombuffer(value, array.dtype, array.size, size).reshape(array.shape, order=order)
    target[...] = array
    return value


def unpack(value: Buffer) -> NDArray[Any]:
    """Return the array that a value contains, without a copy.

    Args:
        value: bytes of `get`, or a buffer that `get_into` filled; the array uses its memory, and
            can be written if the buffer can.

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
