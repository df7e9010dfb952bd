/* Maps pages of files into windows of memory, for file_window.py. Linux only.

   A mapped page that is no longer available (the file was cut, the disk failed) raises SIGBUS when it is read, which would end
   the process. The handler here maps zeros from that page to the end of the window and marks the window as damaged, which its
   reader checks afterwards. A SIGBUS anywhere else is passed to the handler that was there before. The handler is installed with
   the first window that is opened, and removed with the last one; file_window.py opens none before use_mappings(). */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#if !defined(__linux__) || !defined(__GNUC__)
#error "needs Linux's mappings and GCC's atomics; without this extension files are read into buffers"
#endif
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef WITHOUT_CACHESTAT /* tests define it, to behave as before Linux 6.5 */
#undef SYS_cachestat
#define SYS_cachestat -1
#elif !defined(SYS_cachestat)
#define SYS_cachestat 451
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* since Linux 5.14; older ones fail with EINVAL, and pages are mapped when they are read */
#endif

/* ALIGN: a huge page. If memory and file are aligned alike, one page-table entry maps a huge page of the page cache. */
enum { MOST_WINDOWS = 256, ALIGN = 1 << 21, PAGES_AT_ONCE = 512 };

typedef struct {
    uintptr_t start, end, memory; /* start is 0 in a free entry */
    uint64_t first, past; /* bytes of the file that are mapped; past is 0 if none are */
    int file, is_damaged;
} Window;

/* Changed with the GIL held, or by the thread that owns the window. The handler reads `start` before `end`; both are written
   while nobody reads the window. */
static Window windows[MOST_WINDOWS];
static int open_windows;
static uintptr_t page_size;
static struct sigaction former;

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    for (int i = 0; i < MOST_WINDOWS; i++) {
        uintptr_t start = __atomic_load_n(&windows[i].start, __ATOMIC_ACQUIRE);
        if (start == 0 || at < start || at >= windows[i].end)
            continue;
        int saved_errno = errno;
        uintptr_t page = at - at % page_size;
        void *zeros = mmap((void *)page, windows[i].end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        errno = saved_errno;
        if (zeros == MAP_FAILED)
            break;
        __atomic_store_n(&windows[i].is_damaged, 1, __ATOMIC_RELEASE);
        return;
    }
    if (former.sa_flags & SA_SIGINFO)
        former.sa_sigaction(number, info, context);
    else if (former.sa_handler != SIG_DFL && former.sa_handler != SIG_IGN)
        former.sa_handler(number);
    else
        sigaction(number, &former, NULL); /* the same read faults again and ends the process, as without this handler */
}

static int is_ours(void)
{
    struct sigaction now;
    return sigaction(SIGBUS, NULL, &now) == 0 && now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_bus_error;
}

static void map_zeros(Window *window)
{
    window->past = 0;
    mmap((void *)window->start, window->end - window->start, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

/* Whether these bytes of a file are in the page cache; -1 if unknown: before Linux 6.5, or another user's file. */
static int is_cached(int file, uint64_t offset, uint64_t size)
{
    struct {
        uint64_t offset, size;
    } range = {offset, size};
    struct {
        uint64_t cached, dirty, written, evicted, lately_evicted;
    } counts;
    uint64_t pages = (offset + size - 1) / page_size - offset / page_size + 1;
    return syscall(SYS_cachestat, file, &range, &counts, 0) == 0 ? counts.cached >= pages : -1;
}

/* The same for bytes that are mapped at `start`; if unknown, mincore tells it for the user's own files. (For files of other users
   mincore claims that all pages are resident.) */
static int is_resident(int file, uint64_t offset, uint64_t size, char *start)
{
    int answer = is_cached(file, offset, size);
    if (answer >= 0)
        return answer;
    uint64_t pages = (size + page_size - 1) / page_size;
    struct stat status;
    if (geteuid() != 0 && (fstat(file, &status) < 0 || status.st_uid != geteuid()))
        return 0;
    for (uint64_t page = 0; page < pages; page += PAGES_AT_ONCE) {
        unsigned char resident[PAGES_AT_ONCE];
        uint64_t count = pages - page < PAGES_AT_ONCE ? pages - page : PAGES_AT_ONCE;
        if (mincore(start + page * page_size, count * page_size, resident) < 0)
            return 0;
        for (uint64_t i = 0; i < count; i++)
            if (!(resident[i] & 1))
                return 0;
    }
    return 1;
}

/* The address that bytes of a file are mapped at, or NULL if they are to be read. */
static char *map_part(Window *window, int file, uint64_t offset, uint64_t size)
{
    if (!is_ours())
        return NULL;
    char *start = (char *)window->start;
    if (window->is_damaged || window->file != file || offset < window->first || offset + size > window->past) {
        uint64_t first = offset - offset % ALIGN, length = window->end - window->start;
        window->past = 0;
        if (mmap(start, length, PROT_READ, MAP_SHARED | MAP_FIXED, file, (off_t)first) != start) {
            map_zeros(window);
            return NULL;
        }
        window->is_damaged = 0;
        window->file = file;
        window->first = first;
        window->past = first + length;
    }
    char *at = start + (offset - window->first);
    uint64_t skipped = offset % page_size;
    if (!is_resident(file, offset - skipped, size + skipped, at - skipped))
        return NULL;
    madvise(at - skipped, size + skipped, MADV_POPULATE_READ);
    return at;
}

/* ---- the Python interface ---- */

/* is_cached(file, offset, size) -> whether all of these bytes are in the page cache; None if the system does not tell. */
static PyObject *ask_cached(PyObject *Py_UNUSED(self), PyObject *const *arguments, Py_ssize_t num_arguments)
{
    if (num_arguments != 3) {
        PyErr_SetString(PyExc_TypeError, "is_cached takes 3 arguments");
        return NULL;
    }
    long file = PyLong_AsLong(arguments[0]);
    long long offset = PyLong_AsLongLong(arguments[1]), size = PyLong_AsLongLong(arguments[2]);
    if (PyErr_Occurred())
        return NULL;
    if (offset < 0 || size <= 0 || size > INT64_MAX - offset) {
        PyErr_SetString(PyExc_ValueError, "no bytes of a file");
        return NULL;
    }
    int answer;
    Py_BEGIN_ALLOW_THREADS
    answer = is_cached((int)file, (uint64_t)offset, (uint64_t)size);
    Py_END_ALLOW_THREADS
    if (answer < 0)
        Py_RETURN_NONE;
    return PyBool_FromLong(answer);
}

static Window *window_of(PyObject *object)
{
    long number = PyLong_AsLong(object);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    if (number < 0 || number >= MOST_WINDOWS || windows[number].start == 0) {
        PyErr_SetString(PyExc_ValueError, "no such window");
        return NULL;
    }
    return &windows[number];
}

static void unmap_file(Window *window)
{
    Py_BEGIN_ALLOW_THREADS
    if (window->past)
        map_zeros(window);
    Py_END_ALLOW_THREADS
}

/* open_window(memory) -> the number of a window over the part of anonymous memory between multiples of ALIGN; -1 if no more
   windows can be opened. */
static PyObject *open_window(PyObject *Py_UNUSED(self), PyObject *memory)
{
    Py_buffer view;
    if (PyObject_GetBuffer(memory, &view, PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    uintptr_t address = (uintptr_t)view.buf, start = (address + ALIGN - 1) / ALIGN * ALIGN;
    uintptr_t end = (address + (uintptr_t)view.len) / ALIGN * ALIGN;
    PyBuffer_Release(&view);
    if (end <= start) {
        PyErr_SetString(PyExc_ValueError, "memory without a whole page of 2 MiB");
        return NULL;
    }
    int number = 0;
    while (number < MOST_WINDOWS && windows[number].start)
        number++;
    if (number == MOST_WINDOWS)
        return PyLong_FromLong(-1);
    if (open_windows == 0) {
        struct sigaction ours = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        sigemptyset(&ours.sa_mask);
        if (sigaction(SIGBUS, &ours, &former) < 0)
            return PyLong_FromLong(-1);
    }
    open_windows++;
    windows[number] = (Window){.end = end, .memory = address};
    __atomic_store_n(&windows[number].start, start, __ATOMIC_RELEASE);
    return PyLong_FromLong(number);
}

/* close_window(number): unmap the file and free the window. With the last one the former handler is restored, unless another one
   was set meanwhile. */
static PyObject *close_window(PyObject *Py_UNUSED(self), PyObject *number)
{
    Window *window = window_of(number);
    if (window == NULL)
        return NULL;
    unmap_file(window);
    __atomic_store_n(&window->start, 0, __ATOMIC_RELEASE);
    if (--open_windows == 0 && is_ours())
        sigaction(SIGBUS, &former, NULL);
    Py_RETURN_NONE;
}

/* unmap(number): unmap the file. */
static PyObject *unmap(PyObject *Py_UNUSED(self), PyObject *number)
{
    Window *window = window_of(number);
    if (window == NULL)
        return NULL;
    unmap_file(window);
    Py_RETURN_NONE;
}

/* map_bytes(number, file, offset, size) -> the position of these bytes in the window's memory; -1 if they are to be read. */
static PyObject *map_bytes(PyObject *Py_UNUSED(self), PyObject *const *arguments, Py_ssize_t num_arguments)
{
    if (num_arguments != 4) {
        PyErr_SetString(PyExc_TypeError, "map_bytes takes 4 arguments");
        return NULL;
    }
    Window *window = window_of(arguments[0]);
    long file = PyLong_AsLong(arguments[1]);
    long long offset = PyLong_AsLongLong(arguments[2]), size = PyLong_AsLongLong(arguments[3]);
    if (window == NULL || PyErr_Occurred())
        return NULL;
    if (offset < 0 || size <= 0 || (uint64_t)size + (uint64_t)(offset % ALIGN) > window->end - window->start) {
        PyErr_SetString(PyExc_ValueError, "more bytes than the window has room for");
        return NULL;
    }
    char *at;
    Py_BEGIN_ALLOW_THREADS
    at = map_part(window, (int)file, (uint64_t)offset, (uint64_t)size);
    Py_END_ALLOW_THREADS
    return PyLong_FromSsize_t(at == NULL ? -1 : at - (char *)window->memory);
}

/* is_damaged(number) -> whether a page of the last mapping was not available when it was read. */
static PyObject *is_damaged(PyObject *Py_UNUSED(self), PyObject *number)
{
    Window *window = window_of(number);
    return window ? PyBool_FromLong(__atomic_load_n(&window->is_damaged, __ATOMIC_ACQUIRE)) : NULL;
}

static PyMethodDef methods[] = {
    {"open_window", open_window, METH_O, "See file_window.py."},
    {"close_window", close_window, METH_O, "See file_window.py."},
    {"unmap", unmap, METH_O, "See file_window.py."},
    {"map_bytes", (PyCFunction)(void (*)(void))map_bytes, METH_FASTCALL, "See file_window.py."},
    {"is_damaged", is_damaged, METH_O, "See file_window.py."},
    {"is_cached", (PyCFunction)(void (*)(void))ask_cached, METH_FASTCALL, "See prefetch.py."},
    {NULL, NULL, 0, NULL},
};

static int prepare(PyObject *Py_UNUSED(module))
{
    page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, prepare}, {0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_file_window", "Pages of a file in memory; see file_window.py.", 0,
                                    methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__file_window(void) { return PyModuleDef_Init(&module); }
